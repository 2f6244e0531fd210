//! What readers get to see, in real browsers: the reports as files and the server's page are small, load nothing, make the
//! browser complain of nothing, and are accessible, as axe-core judges (AXE names its file; without it that part is left out).

use std::{fs, time::Duration};

use natlab::{
    Lab, LabError,
    address::SERVER4,
    binaries::binary,
    harness::{Trial, trial},
    topology::Topology,
};
use serde_json::Value;

use super::driver::{Browser, Window};

/// A report has to fit into a mail.
const LARGEST: u64 = 200_000;
const PATIENCE: Duration = Duration::from_secs(60);
/// Simulated, so that every picture of a report is there.
const REPORTS: [(&str, &[&str]); 3] = [
    ("lifetime", &["--simulate", "linux", "--lifetime=12", "--format", "html"]),
    ("symmetric", &["--simulate", "symmetric-sequential+carrier", "--format", "html"]),
    ("blocked", &["--simulate", "udp-blocked", "--format", "html"]),
];

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for browser in Browser::ALL {
        for (name, arguments) in REPORTS {
            let name = format!("documents::{}::report-{name}", browser.name());
            trials.push(trial(name, move || report(browser, arguments)));
        }
        trials.push(trial(format!("documents::{}::page", browser.name()), move || page(browser)));
    }
    trials
}

/// Opened from a file, on a host from which nothing can be reached.
fn report(browser: Browser, arguments: &[&str]) -> Result<(), LabError> {
    let lab = Lab::build(&Topology::new().router("home", "port-restricted-cone").host("a", "home"))?;
    let output = lab.host(0).command(binary("nat-check")?).args(arguments).output(PATIENCE)?;
    let folder = tempfile::tempdir().map_err(LabError::io("making a folder"))?;
    let file = folder.path().join("report.html");
    fs::write(&file, &output.stdout).map_err(LabError::io("writing the report"))?;
    let mut window = browser.open(lab.host(0), &format!("file://{}", file.display()))?;
    window.wait_for("document.readyState", "complete")?;
    let heading = window.evaluate("document.querySelector('h1').textContent")?;
    assert!(!heading.is_empty(), "{}", output.stderr);
    judge(browser, window, output.stdout.len() as u64)
}

/// Before it has measured, and with its result.
fn page(browser: Browser) -> Result<(), LabError> {
    let lab = Lab::build(&Topology::new().router("home", "port-restricted-cone").host("a", "home"))?;
    let _server = lab.probe_server()?;
    let mut window = browser.open(lab.host(0), &format!("http://{}:3478/", SERVER4[0]))?;
    window.wait_for("document.documentElement.dataset.state", "ready")?;
    accessible(browser, &mut window)?;
    window.evaluate("document.getElementById('start').click() || ''")?;
    window.wait_for("document.documentElement.dataset.state", "done")?;
    window.evaluate("document.querySelectorAll('details').forEach((it) => { it.open = true; }) || ''")?;
    let size = window.evaluate("String(document.documentElement.outerHTML.length)")?;
    judge(browser, window, size.parse().unwrap_or(u64::MAX))
}

fn judge(browser: Browser, mut window: Window, size: u64) -> Result<(), LabError> {
    println!("{}: {size} bytes", browser.name());
    assert!(size < LARGEST, "{size} bytes");
    let loaded = "JSON.stringify(performance.getEntriesByType('resource').map((it) => it.name))";
    assert_eq!(window.evaluate(loaded)?, "[]", "what it has loaded");
    accessible(browser, &mut window)?;
    assert_eq!(window.close()?, [""; 0], "what the browser complains about");
    Ok(())
}

/// Nothing that axe-core finds fault with, dark and light.
fn accessible(browser: Browser, window: &mut Window) -> Result<(), LabError> {
    let Some(file) = std::env::var_os("AXE") else {
        println!("AXE is not set: accessibility is not judged");
        return Ok(());
    };
    let axe = fs::read_to_string(file).map_err(LabError::io("reading axe-core"))?;
    window.evaluate(&format!("(() => {{ {axe}\n return '' }})()"))?;
    let schemes: &[&str] = if browser == Browser::Chromium { &["light", "dark"] } else { &["light"] };
    for scheme in schemes {
        if browser == Browser::Chromium {
            window.prefer(scheme)?;
        }
        let told = window.evaluate("axe.run().then((found) => JSON.stringify(found))")?;
        let found: Value = serde_json::from_str(&told).unwrap_or_default();
        let passed = found["passes"].as_array().map_or(0, Vec::len);
        println!(
            "{} {scheme}: axe-core passes {passed} rules, finds {}",
            browser.name(),
            found["violations"]
        );
        assert!(passed > 5 && found["violations"] == serde_json::json!([]), "{:#}", found["violations"]);
    }
    Ok(())
}
