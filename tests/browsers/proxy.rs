//! The page behind nginx, as an operator would put it there: what the browser is told comes through the proxy, what is measured
//! goes past it, and a punch knows the browser's own address.

use std::{fs, time::Duration};

use natlab::{
    Lab, LabError,
    address::SERVER4,
    binaries::binary,
    harness::{Trial, trial},
    process::Running,
    topology::Topology,
};
use serde_json::Value;

use super::driver::Browser;

const PATIENCE: Duration = Duration::from_secs(100);
/// As the manual has it: the page's own requests with the name that the browser asked for, WebSockets, the client's address.
const SERVER_BLOCK: &str = include_str!("nginx.conf");

pub(crate) fn trials() -> Vec<Trial> {
    let name = |browser: Browser| format!("proxy::{}::measures-and-meets", browser.name());
    Browser::ALL.map(|browser| trial(name(browser), move || measures_and_meets(browser))).into()
}

fn measures_and_meets(browser: Browser) -> Result<(), LabError> {
    let topology = Topology::new()
        .router("home", "port-restricted-cone")
        .line("delay=15ms")
        .host("a", "home")
        .router("office", "restricted-cone")
        .line("delay=15ms")
        .host("b", "office")
        .internet("proxy");
    let lab = Lab::build(&topology)?;
    let proxy = lab.find("proxy")?.ip(false).to_string();
    let _server = server(&lab, &proxy)?;
    let folder = tempfile::tempdir().map_err(LabError::io("making a folder"))?;
    let _nginx = nginx(&lab, folder.path())?;
    let at = format!("http://{proxy}:8080");
    let visit = browser.visit(lab.find("a")?, &format!("{at}/?auto=1"))?;
    assert_eq!((visit.state.as_str(), visit.console.as_slice()), ("done", &[][..]), "{}", visit.status);
    assert_eq!(
        visit.report["ipv4"]["udp"]["nat_type"]["value"], "port-restricted-cone",
        "{:#}",
        visit.report
    );

    let command = lab.find("b")?.command(binary("nat-check")?).without("NAT_CHECK_SERVER");
    let server = SERVER4[0].to_string();
    let mut client =
        command.args(["punch", "--json", "--hold", "1", "--wait", "100", "--server", &server]).start()?;
    let line = client.error_line(PATIENCE, |line| line.starts_with("code: "))?;
    let code = line.trim_start_matches("code: ");
    let visit = browser.visit(lab.find("a")?, &format!("{at}/p/{code}?auto=1"))?;
    let output = client.finish(PATIENCE)?;
    let told: Value = serde_json::from_str(&output.stdout).unwrap_or_default();
    for report in [&visit.report, &told] {
        let punch = &report["punch"];
        assert_eq!(punch["outcome"], "direct", "{punch:#} {}", output.stderr);
        assert_eq!(punch["predicted"]["outcome"], "direct", "{punch:#} {}", output.stderr);
    }
    println!(
        "{} behind nginx: measured, and met nat-check at {}",
        browser.name(),
        visit.report["punch"]["remote"]
    );
    Ok(())
}

fn server(lab: &Lab, proxy: &str) -> Result<Running, LabError> {
    let [primary, alternate] = SERVER4.map(|ip| ip.to_string());
    let command = lab.server_host().command(binary("probe-server")?);
    let mut server = command
        .args(["--primary", &primary, "--alternate", &alternate, "--unused-before"])
        .args(["--page-name", proxy, "--trusted-proxy", proxy])
        .start()?;
    server.line(PATIENCE, |line| line.starts_with("ready page "))?;
    Ok(server)
}

fn nginx(lab: &Lab, folder: &std::path::Path) -> Result<Running, LabError> {
    let at = folder.display();
    let file = folder.join("nginx.conf");
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {at}/{kind};\n"))
        .concat();
    let text = format!(
        "worker_processes 1;\ndaemon off;\nuser root;\npid {at}/pid;\nerror_log stderr notice;\nevents {{}}\n\
         http {{\naccess_log off;\n{temporary}{SERVER_BLOCK}}}\n"
    );
    fs::write(&file, text).map_err(LabError::io("writing the configuration"))?;
    let command = lab.find("proxy")?.command("/usr/sbin/nginx").args(["-c", &file.to_string_lossy()]);
    let mut nginx = command.start()?;
    nginx.error_line(PATIENCE, |line| line.contains("start worker processes"))?;
    Ok(nginx)
}
