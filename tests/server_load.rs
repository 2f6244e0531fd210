//! The server under load, for seconds; `cargo bench -p natlab --bench server` measures the same for minutes.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::ExitCode,
    sync::atomic::AtomicU32,
    time::Duration,
};

use natlab::{
    LabError,
    harness::{main as run, trial},
    load::{self, mixed, spent},
    netns::Namespace,
    process::Running,
};
use tokio::time::Instant;

fn main() -> ExitCode {
    run(|| {
        vec![
            trial("nothing honest is lost under mixed load", nothing_honest_is_lost),
            trial("memory does not grow with the number of sources", memory_does_not_grow),
        ]
    })
}

fn start(network: &Namespace) -> Result<(Running, SocketAddr), LabError> {
    let [primary, alternate] = load::SERVER.map(|ip| ip.to_string());
    let mut server = network
        .command(natlab::binaries::binary("probe-server")?)
        .args([
            "--primary",
            &primary,
            "--alternate",
            &alternate,
            "--workers",
            "2",
            "--check",
            "--admin",
            "9478",
        ])
        .start()?;
    server.line(Duration::from_secs(10), |line| line.starts_with("ready udp"))?;
    Ok((server, SocketAddr::from((load::SERVER[0], 3478))))
}

fn nothing_honest_is_lost() -> Result<(), LabError> {
    let network = load::network()?;
    let (server, address) = start(&network)?;
    let pid = AtomicU32::new(server.id());
    let report = network
        .run(move || mixed::endure(&pid, address, Duration::from_secs(5)))
        .map_err(LabError::io("mixed load"))?;
    println!("{report}");
    assert!(report.is_clean(), "{report}");
    assert!(report.hostile > 1000 && report.hostile_streams > 10, "{report}");
    Ok(())
}

fn memory_does_not_grow() -> Result<(), LabError> {
    let network = load::network()?;
    let (server, address) = start(&network)?;
    let flood = |first: Ipv4Addr, sources: u32| {
        let request = load::binding_request(1);
        let ask = move || load::from_many_sources(first, sources, address, |_| request.clone());
        network.run(ask).map_err(LabError::io("asking from many sources"))
    };
    let resident = || spent::resident_kib(server.id()).map_err(LabError::io("reading the memory"));
    flood(Ipv4Addr::new(10, 1, 0, 0), 10_000)?;
    let before = resident()?;
    let received = || {
        let ask = || load::counted(SocketAddr::from((Ipv4Addr::LOCALHOST, 9478)), "probe_udp_received_total");
        network.run(ask).map_err(LabError::io("asking for the metrics"))
    };
    let first = Ipv4Addr::new(10, 2, 0, 0).to_bits();
    let begun = Instant::now();
    for group in (0..50_000).step_by(500) {
        let seen = received()?;
        assert_eq!(flood(Ipv4Addr::from_bits(first + group), 500)?, 500);
        // So few fit into its queue: none is lost in front of a server that is busy.
        while received()? < seen + 500 {
            assert!(begun.elapsed() < Duration::from_secs(300), "the server does not see them");
        }
    }
    let after = resident()?;
    println!("{before} KiB after 10,000 sources, {after} KiB after 60,000");
    // Pages that are touched for the first time may still come in; whatever remembers a source takes at least the six
    // bytes of its address and port.
    let remembered = 50_000 * 6 / 1024;
    assert!(after < before + remembered, "{before} KiB, then {after} KiB");
    Ok(())
}
