//! Ours against stun-rs, both ways: what either writes, the other reads as the same message.

use std::net::{IpAddr, SocketAddr};

use nat_check_protocol::stun::{self, Class, TransactionId, View, Writer, attr};
use proptest::prelude::*;
use stun_rs::{
    MessageClass, MessageDecoderBuilder, MessageEncoderBuilder, StunMessageBuilder,
    attributes::{
        discovery::{ChangeRequest, OtherAddress, Padding, ResponseOrigin, ResponsePort},
        stun::{Fingerprint, MappedAddress, Software, XorMappedAddress},
    },
    methods::BINDING,
};

fn socket_address() -> impl Strategy<Value = SocketAddr> {
    let ip = prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from),];
    (ip, any::<u16>()).prop_map(SocketAddr::from)
}

fn modern_id() -> impl Strategy<Value = TransactionId> {
    any::<u64>().prop_map(|seed| TransactionId::modern(&mut fastrand::Rng::with_seed(seed)))
}

fn class() -> impl Strategy<Value = (Class, MessageClass)> {
    prop::sample::select(vec![
        (Class::Request, MessageClass::Request),
        (Class::Indication, MessageClass::Indication),
        (Class::Success, MessageClass::SuccessResponse),
        (Class::Error, MessageClass::ErrorResponse),
    ])
}

proptest! {
    #[test]
    fn what_we_write_they_read(
        (class, their_class) in class(), id in modern_id(), mapped in socket_address(), origin in socket_address(),
        other in socket_address(), flags in 0..4_u32, port: u16, padding in 0..300_usize,
        software in "[a-zA-Z0-9 .-]{1,40}", fingerprint: bool,
    ) {
        let mut buffer = [0; 1024];
        let mut writer = Writer::new(&mut buffer, class, &id);
        writer
            .address(attr::MAPPED_ADDRESS, mapped)
            .xor_address(attr::XOR_MAPPED_ADDRESS, mapped)
            .address(attr::RESPONSE_ORIGIN, origin)
            .address(attr::OTHER_ADDRESS, other)
            .u32(attr::CHANGE_REQUEST, flags << 1)
            .response_port(port)
            .zeros(attr::PADDING, padding)
            .bytes(attr::SOFTWARE, software.as_bytes());
        if fingerprint {
            writer.fingerprint();
        }
        let length = writer.finish().unwrap();
        let (message, used) = MessageDecoderBuilder::default().build().decode(&buffer[..length]).unwrap();
        prop_assert_eq!(used, length);
        prop_assert_eq!(message.class(), their_class);
        prop_assert_eq!(message.method(), BINDING);
        prop_assert_eq!(message.transaction_id().as_bytes(), &id.0[4..]);
        let address = |got: &stun_rs::StunAttribute| *got.as_mapped_address().unwrap().socket_address();
        prop_assert_eq!(address(message.get::<MappedAddress>().unwrap()), mapped);
        let xor = message.get::<XorMappedAddress>().unwrap().as_xor_mapped_address().unwrap();
        prop_assert_eq!(*xor.socket_address(), mapped);
        let theirs = message.get::<ResponseOrigin>().unwrap().as_response_origin().unwrap();
        prop_assert_eq!(*theirs.socket_address(), origin);
        let theirs = message.get::<OtherAddress>().unwrap().as_other_address().unwrap();
        prop_assert_eq!(*theirs.socket_address(), other);
        let theirs = message.get::<ChangeRequest>().unwrap().as_change_request().unwrap();
        prop_assert_eq!(theirs.flags().bits(), flags << 1);
        let theirs = message.get::<ResponsePort>().unwrap().as_response_port().unwrap();
        prop_assert_eq!(theirs.as_u16(), port);
        let theirs = message.get::<Padding>().unwrap().as_padding().unwrap();
        prop_assert_eq!(theirs.as_str().len(), padding);
        let theirs = message.get::<Software>().unwrap().as_software().unwrap();
        prop_assert_eq!(theirs.as_str(), software);
        prop_assert_eq!(message.get::<Fingerprint>().is_some(), fingerprint);
    }

    #[test]
    fn what_they_write_we_read(
        (class, their_class) in class(), mapped in socket_address(), origin in socket_address(),
        other in socket_address(), port: u16, software in "[a-zA-Z0-9.-]{1,40}", fingerprint: bool,
    ) {
        let mut builder = StunMessageBuilder::new(BINDING, their_class)
            .with_attribute(MappedAddress::from(mapped))
            .with_attribute(XorMappedAddress::from(mapped))
            .with_attribute(ResponseOrigin::from(origin))
            .with_attribute(OtherAddress::from(other))
            .with_attribute(ResponsePort::from(port))
            .with_attribute(Software::new(&software).unwrap());
        if fingerprint {
            builder = builder.with_attribute(Fingerprint::default());
        }
        let message = builder.build();
        let mut buffer = [0; 1024];
        let length = MessageEncoderBuilder::default().build().encode(&mut buffer, &message).unwrap();
        let view = View::parse(&buffer[..length]).unwrap();
        prop_assert_eq!((view.class(), view.method(), view.dialect()), (class, stun::BINDING, stun::Dialect::Modern));
        prop_assert_eq!(&view.id().0[4..], message.transaction_id().as_bytes());
        prop_assert_eq!(view.address(attr::MAPPED_ADDRESS), Some(mapped));
        prop_assert_eq!(view.xor_address(attr::XOR_MAPPED_ADDRESS), Some(mapped));
        prop_assert_eq!(view.address(attr::RESPONSE_ORIGIN), Some(origin));
        prop_assert_eq!(view.address(attr::OTHER_ADDRESS), Some(other));
        prop_assert_eq!(view.response_port(), Some(port));
        prop_assert_eq!(view.find(attr::SOFTWARE), Some(software.as_bytes()));
        prop_assert_eq!(view.fingerprint(), fingerprint.then_some(true));
    }

    /// Ours never panics, and takes everything that the strict one takes.
    #[test]
    fn random_messages(body in prop::collection::vec(any::<u8>(), 0..60), id in modern_id(), tidy: bool) {
        let mut message = [&[0, 1, 0, 0][..], &id.0, &body].concat();
        if tidy {
            message.truncate(message.len() / 4 * 4);
            let length = (message.len() - 20) as u16;
            message[2..4].copy_from_slice(&length.to_be_bytes());
        }
        let ours = View::parse(&message);
        if let Ok(view) = &ours {
            let covered: usize = view.attributes().map(|a| 4 + a.value.len().next_multiple_of(4)).sum();
            prop_assert_eq!(covered + 20, message.len());
            _ = (view.mapped(), view.error(), view.response_port(), view.fingerprint());
        }
        if let Ok((_, used)) = MessageDecoderBuilder::default().build().decode(&message) {
            prop_assert!(ours.is_ok() || used != message.len());
        }
    }
}
