//! Two hosts behind two NATs find each other: each learns its external address from a
//! rendezvous on the Internet, and sends to that of the other. As a `#[test]`, the body is the same.

#[cfg(target_os = "linux")]
fn main() -> Result<(), natlab::LabError> {
    use natlab::{Lab, netns::obtain_privilege, topology::Topology};

    // First thing in a process, while it has one thread; as root it does nothing.
    obtain_privilege()?;
    let lab = Lab::build(
        &Topology::new()
            .router("home", "port-restricted-cone")
            .router("office", "port-restricted-cone")
            .host("alice", "home")
            .host("bob", "office")
            .internet("rendezvous"),
    )?;
    let at = |name: &str| lab.find(name);
    let failed = natlab::LabError::io;
    let meet = at("rendezvous")?
        .run(|| std::net::UdpSocket::bind("198.51.100.20:5000"))
        .map_err(failed("binding"))?;
    let peer = |name: &str| -> Result<_, natlab::LabError> {
        let socket = at(name)?.run(|| std::net::UdpSocket::bind("0.0.0.0:0")).map_err(failed("binding"))?;
        socket.send_to(b"here I am", "198.51.100.20:5000").map_err(failed("sending"))?;
        let (_, seen_as) = meet.recv_from(&mut [0; 64]).map_err(failed("receiving"))?;
        Ok((socket, seen_as))
    };
    let ((alice, alice_at), (bob, bob_at)) = (peer("alice")?, peer("bob")?);
    alice.send_to(b"opens alice's filter", bob_at).map_err(failed("sending"))?;
    bob.send_to(b"hello", alice_at).map_err(failed("sending"))?;
    let mut heard = [0; 64];
    let (length, from) = alice.recv_from(&mut heard).map_err(failed("receiving"))?;
    assert_eq!((&heard[..length], from), (&b"hello"[..], bob_at));
    println!("{}", lab.summary()?.between("alice", "bob"));
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("Real networks are for Linux.");
}
