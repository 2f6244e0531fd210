//! Rooms of real client processes behind different NATs.

use std::time::Duration;

use natlab::{
    Lab, LabError,
    address::SERVER4,
    binaries::binary,
    host::Host,
    process::{Output, Running},
    room::EIGHT_NATS,
};
use rustix::process::Signal;
use serde_json::Value;

use crate::linux::{PATIENCE, site};

/// All pairs one after another, each as long as it may take on a busy machine.
const LONGEST: Duration = Duration::from_secs(400);

fn lab(nats: &[&str]) -> Result<Lab, LabError> {
    Lab::tun(&nats.iter().map(|nat| site(nat)).collect::<Result<Vec<_>, _>>()?, 1)
}

fn enter(host: &Host, name: &str, arguments: &[&str]) -> Result<Running, LabError> {
    let command = host.command(binary("nat-check")?).without("NAT_CHECK_SERVER");
    let server = SERVER4[0].to_string();
    command.args(["room", "fleet", "--json", "--as", name, "--server", &server]).args(arguments).start()
}

fn room(output: &Output) -> Value {
    let told = format!("exit code {}\n{}\n{}", output.code, output.stdout, output.stderr);
    let document: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {told}"));
    document["room"].clone()
}

/// What a machine that is busy may leave open is open with a reason; what is said is right.
pub(crate) fn eight_behind_eight_nats() -> Result<(), LabError> {
    let lab = lab(&EIGHT_NATS)?;
    let _server = lab.server()?;
    let members = (0..EIGHT_NATS.len()).map(|host| {
        enter(
            lab.host(host),
            EIGHT_NATS[host],
            &["--members", "8", "--wait", "300", "--techniques", TECHNIQUES],
        )
    });
    let members: Vec<Running> = members.collect::<Result<_, _>>()?;
    let rooms = members.into_iter().map(|member| Ok(room(&member.finish(LONGEST)?)));
    let rooms: Vec<Value> = rooms.collect::<Result<_, LabError>>()?;
    let pairs = rooms[0]["pairs"].as_array().cloned().unwrap_or_default();
    assert_eq!(pairs.len(), 28, "{:#}", rooms[0]);
    for other in &rooms {
        assert_eq!(other["pairs"], rooms[0]["pairs"], "all see the same");
    }
    let (mut direct, mut surprising) = (0, 0);
    for pair in &pairs {
        match (pair["outcome"].as_str(), pair["predicted"].as_f64()) {
            (Some("direct"), predicted) => {
                direct += 1;
                assert!(predicted != Some(0.0), "{pair:#}");
                assert_eq!(pair["said"], serde_json::json!({ "a": true, "b": true }), "{pair:#}");
            }
            (Some("relay"), predicted) => assert!(predicted.is_some_and(|p| p < 0.5), "{pair:#}"),
            (Some("failed"), predicted) => {
                assert_eq!(pair["said"], serde_json::json!({ "a": false, "b": false }), "{pair:#}");
                surprising += usize::from(predicted.is_some_and(|p| p >= 0.99));
            }
            _ => assert!(pair["reason_code"].is_string(), "{pair:#}"),
        }
    }
    // Two processes that get no time miss each other; in the simulation that happens to none.
    assert!(direct >= 14 && surprising <= 3, "{pairs:#?}");
    Ok(())
}

/// Guessing ports takes long and is tried between two.
const TECHNIQUES: &str = "lan,simultaneous,low-ttl,prediction,tcp";

pub(crate) fn members_leave() -> Result<(), LabError> {
    let lab = lab(&["full-cone", "port-restricted-cone", "open"])?;
    let _server = lab.server()?;
    // The one that is told to leave is in by then; whatever it had said by then counts, and the others go on.
    let mut leaves = enter(lab.host(2), "leaves", &["--for", "1h"])?;
    leaves.error_line(PATIENCE, |line| line.starts_with("room: "))?;
    let mut stays = enter(lab.host(0), "stays", &["--members", "3", "--wait", "300"])?;
    for member in [&mut stays, &mut leaves] {
        member.error_line(PATIENCE, |line| line.contains("2 members"))?;
    }
    leaves.signal(Signal::INT)?;
    let left = leaves.finish(PATIENCE)?;
    assert_eq!(left.code, 130, "{}", left.stderr);
    assert!(room(&left)["members"].as_array().is_some_and(|members| members.len() >= 2), "{}", left.stdout);
    let comes = enter(lab.host(1), "comes", &["--members", "3", "--wait", "300"])?;
    let returns = enter(lab.host(2), "returns", &["--members", "3", "--wait", "300"])?;
    let (stays, comes) = (stays.finish(LONGEST)?, comes.finish(LONGEST)?);
    returns.finish(LONGEST)?;
    for output in [&stays, &comes] {
        let room = room(output);
        let id = |name: &str| {
            let members = room["members"].as_array().cloned().unwrap_or_default();
            members.iter().find(|member| member["name"] == name).and_then(|member| member["id"].as_u64())
        };
        let pair = room["pairs"].as_array().and_then(|pairs| {
            pairs.iter().find(|pair| (pair["a"].as_u64(), pair["b"].as_u64()) == (id("stays"), id("comes")))
        });
        let outcome = pair.map(|pair| (pair["outcome"].as_str(), pair["reason_code"].is_string()));
        assert!(matches!(outcome, Some((Some("direct"), false) | (Some("unknown"), true))), "{room:#}");
    }
    let output = {
        let command = lab.host(0).command(binary("nat-check")?).without("NAT_CHECK_SERVER");
        let server = SERVER4[0].to_string();
        command.args(["room", "tabo-kiru-lama-dosu", "--server", &server]).start()?.finish(PATIENCE)?
    };
    assert_eq!((output.code, output.stdout.as_str()), (3, ""), "{}", output.stderr);
    assert!(output.stderr.contains("there is no room of this name"), "{}", output.stderr);
    Ok(())
}
