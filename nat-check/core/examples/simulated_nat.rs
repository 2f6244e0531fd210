//! Runs a whole check against a simulated NAT in virtual time; nothing is sent:
//!
//! ```text
//! cargo run -p nat-check-core --features sim --example simulated_nat -- "mapping=apd,filtering=apd,ports=sequential"
//! ```

use std::error::Error;

use nat_check_core::{Check, net::sim::simulate, report::PeerOutcome};

fn main() -> Result<(), Box<dyn Error>> {
    let nat = std::env::args().nth(1).unwrap_or_else(|| "symmetric".to_owned());
    // With the clock paused, waiting takes no time.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build()?;
    let report = runtime.block_on(async {
        let simulated = simulate(&nat, 1)?;
        Ok::<_, Box<dyn Error>>(Check::with([simulated.server]).net(simulated.net).run().await)
    })?;

    let udp = report.ipv4.udp.ok_or("nothing was measured")?;
    println!("simulated: {nat}");
    println!("mapping:   {}", text(udp.mapping.value));
    println!("filtering: {}", text(udp.filtering.value));
    println!("NAT type:  {}", text(udp.nat_type.value));
    let direct = report.hole_punching.peers.iter().filter(|peer| peer.outcome == PeerOutcome::Direct).count();
    println!("reached directly: {direct} of {} kinds of peer", report.hole_punching.peers.len());
    Ok(())
}

fn text(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "unknown".to_owned(), |value| value.to_string())
}
