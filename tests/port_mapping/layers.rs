//! What the gateway says of itself over UPnP, which the layers of NAT rest on where packets show nothing.

use natlab::{
    LabError,
    address::SERVER4,
    client::nat_check,
    harness::{is_decided, says},
};
use serde_json::Value;

use super::home::{Home, is_installed};

/// The gateway speaks UPnP alone, and drops what comes for its external address from inside.
const UPNP_ALONE: &str = "insert rule inet filter input iifname \"lan\" udp dport 5351 drop
insert rule inet filter input iifname \"lan\" ip daddr 5.5.5.1 drop
";
/// It does not speak that either.
const NOTHING: &str = "insert rule inet filter input iifname \"lan\" udp dport 1900 drop\n";

fn layers(home: &Home) -> Result<Value, LabError> {
    let run = nat_check(home.lab.host(0), SERVER4[0].into(), &["-4", "--only", "layers"])?;
    assert_eq!(run.output.code, 0, "{}", run.output.stderr);
    Ok(run.report["layers"].clone())
}

/// One router, with UPnP and without.
pub(super) fn told_by_upnp() -> Result<(), LabError> {
    is_installed("/usr/sbin/miniupnpd")?;
    let home = Home::new()?.with_miniupnpd("")?;
    home.router().nft(UPNP_ALONE)?;
    let before = home.rules()?;
    let told = layers(&home)?;
    let named = &told["gateway_external_address"];
    says(named, &"5.5.5.1".into());
    // On a busy machine the daemon may answer too late.
    if is_decided(!named["value"].is_null()) {
        assert_eq!(named["evidence"]["named"], serde_json::json!(["UPnP: 5.5.5.1"]), "{told:#}");
        says(&told["kind"], &"one".into());
    }
    assert_eq!(home.rules()?, before, "it only asks");
    home.router().nft(NOTHING)?;
    let told = layers(&home)?;
    assert_eq!(told["gateway_external_address"]["reason_code"], "no-external-address-named", "{told:#}");
    let kind = &told["kind"];
    assert!(kind["confidence"] == "weak" || kind["confidence"] == "unknown", "silence is no proof: {told:#}");
    Ok(())
}

/// The first of two routers was told the address of the second one: packets show that it is not its own.
pub(super) fn told_wrongly_by_upnp() -> Result<(), LabError> {
    is_installed("/usr/sbin/miniupnpd")?;
    let home = Home::double(["192.168.1.1", "192.168.1.2"])?.with_miniupnpd("ext_ip=5.5.5.1\n")?;
    home.router().nft(UPNP_ALONE)?;
    let told = layers(&home)?;
    is_decided(told["gateway_external_address"]["value"] == "5.5.5.1");
    let kind = &told["kind"];
    assert!(kind["value"] != "one" || kind["confidence"] == "weak", "{told:#}");
    assert!(kind["confidence"] != "strong" && kind["confidence"] != "certain", "{told:#}");
    Ok(())
}
