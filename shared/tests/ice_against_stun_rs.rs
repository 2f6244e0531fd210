//! Connectivity checks of ICE against stun-rs, both ways: attributes and integrity.

use std::net::SocketAddr;

use nat_check_protocol::stun::{
    Class, TransactionId, View,
    ice::{self, Credentials, MAX_CHECK},
};
use proptest::prelude::*;
use stun_rs::{
    DecoderContextBuilder, HMACKey, MessageClass, MessageDecoderBuilder, MessageEncoderBuilder,
    StunMessageBuilder,
    attributes::{
        ice::{IceControlled, IceControlling, Priority, UseCandidate},
        stun::{Fingerprint, MessageIntegrity, UserName, XorMappedAddress},
    },
    methods::BINDING,
};

fn decode(bytes: &[u8], password: &str) -> stun_rs::StunMessage {
    let key = HMACKey::new_short_term(password).expect("a password");
    let context = DecoderContextBuilder::default().with_key(key).with_validation().build();
    let decoder = MessageDecoderBuilder::default().with_context(context).build();
    let (message, used) =
        decoder.decode(bytes).expect("stun-rs finds it right, integrity and fingerprint too");
    assert_eq!(used, bytes.len());
    message
}

proptest! {
    #[test]
    fn the_check_that_we_write_they_read(
        ufrag in "[a-zA-Z0-9+/]{4,16}", own in "[a-zA-Z0-9+/]{4,8}", password in "[a-zA-Z0-9+/]{22,40}",
        priority: u32, tie: u64, seed: u64,
    ) {
        let id = TransactionId::modern(&mut fastrand::Rng::with_seed(seed));
        let peer = Credentials { ufrag: ufrag.clone(), password: password.clone() };
        prop_assert!(peer.are_valid());
        let mut buffer = [0; MAX_CHECK];
        let length = ice::write_check(&mut buffer, &id, &own, &peer, priority, tie).unwrap();
        let message = decode(&buffer[..length], &password);
        prop_assert_eq!((message.class(), message.method()), (MessageClass::Request, BINDING));
        prop_assert_eq!(message.get::<UserName>().unwrap().as_user_name().unwrap().as_str(), format!("{ufrag}:{own}"));
        prop_assert_eq!(message.get::<Priority>().unwrap().as_priority().unwrap().as_u32(), priority);
        prop_assert_eq!(message.get::<IceControlled>().unwrap().as_ice_controlled().unwrap().as_u64(), tie);
    }

    #[test]
    fn the_response_that_we_write_they_read(seed: u64, password in "[a-zA-Z0-9+/]{22,40}", v6: bool, port: u16) {
        let id = TransactionId::modern(&mut fastrand::Rng::with_seed(seed));
        let from: SocketAddr = if v6 { (std::net::Ipv6Addr::LOCALHOST, port).into() } else { ([192, 0, 2, 1], port).into() };
        let mut buffer = [0; MAX_CHECK];
        let length = ice::write_response(&mut buffer, &id, from, &password).unwrap();
        let message = decode(&buffer[..length], &password);
        prop_assert_eq!(message.class(), MessageClass::SuccessResponse);
        prop_assert_eq!(message.get::<XorMappedAddress>().unwrap().as_xor_mapped_address().unwrap().socket_address(), &from);
    }

    #[test]
    fn the_check_that_they_write_we_read(
        name in "[a-zA-Z0-9+/]{4,8}:[a-zA-Z0-9+/]{4,8}", password in "[a-zA-Z0-9+/]{22,40}", priority: u32, tie: u64,
    ) {
        let key = HMACKey::new_short_term(&password).unwrap();
        let message = StunMessageBuilder::new(BINDING, MessageClass::Request)
            .with_attribute(UserName::new(&name).unwrap())
            .with_attribute(Priority::from(priority))
            .with_attribute(IceControlling::from(tie))
            .with_attribute(UseCandidate::default())
            .with_attribute(MessageIntegrity::new(key))
            .with_attribute(Fingerprint::default())
            .build();
        let mut buffer = [0; 512];
        let length = MessageEncoderBuilder::default().build().encode(&mut buffer, &message).unwrap();
        let view = View::parse(&buffer[..length]).unwrap();
        prop_assert_eq!(view.class(), Class::Request);
        prop_assert_eq!(ice::username(&view), name.split_once(':'));
        prop_assert_eq!(ice::priority(&view), Some(priority));
        prop_assert!(ice::is_authentic(&view, &password));
        let another = password + "x";
        prop_assert!(!ice::is_authentic(&view, &another));
    }
}
