//! Whoever comes in large numbers makes room for whoever does not.

use std::{collections::BTreeMap, net::Ipv6Addr};

use proptest::prelude::*;

use super::*;

const SHARES: Shares = Shares { per_host: 1000, per_network: 1000 };

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A table with so much room, and who is in it.
struct Room {
    table: AdmissionTable,
    members: BTreeMap<Id, IpAddr>,
    size: usize,
    shares: Shares,
    next: Id,
}

impl Room {
    fn new(size: usize) -> Self {
        let (table, members) = (AdmissionTable::default(), BTreeMap::new());
        Self { table, members, size, shares: SHARES, next: 0 }
    }

    /// The new member, and who went for it.
    fn enter(&mut self, from: IpAddr, now: u64) -> Result<(Id, Option<Id>), Refused> {
        let victim = self.table.admit(from, self.shares, self.table.len() >= self.size, now)?;
        if let Some(id) = victim {
            self.leave(id);
        }
        self.next += 1;
        self.table.insert(self.next, from, now);
        self.members.insert(self.next, from);
        Ok((self.next, victim))
    }

    fn leave(&mut self, id: Id) {
        let from = self.members.remove(&id).expect("a member");
        self.table.remove(id, from).expect("in the table");
    }
}

/// Ten thousand networks of one provider, or of one region, against one honest client and one that comes later.
#[test]
fn ten_thousand_networks_of_one_allocation_push_out_nobody_else() {
    for (bits, honest) in
        [(80, ["2001:db9::1", "192.0.2.1", "2002::1"]), (96, ["2600::1", "192.0.2.1", "2002::1"])]
    {
        for honest in honest {
            let mut room = Room::new(1000);
            let (waiting, _) = room.enter(ip(honest), 0).unwrap();
            for n in 0..10_000_u128 {
                let from = Ipv6Addr::from_bits((0x2001_0db8 << 96) + (n << bits)).into();
                room.enter(from, n as u64 * 1000).unwrap();
            }
            assert!(room.members.contains_key(&waiting), "{honest} against /{}", 128 - bits);
            assert!(room.enter(ip("2003::1"), 10_000_000).is_ok(), "nor is anybody refused");
        }
    }
}

#[test]
fn a_full_network_makes_room_within_itself() {
    let mut room = Room::new(1000);
    room.shares = Shares { per_host: 20, per_network: 100 };
    let (stranger, _) = room.enter(ip("192.0.3.1"), 0).unwrap();
    for n in 0..100 {
        room.enter(ip(&format!("192.0.2.{}", n / 20)), n).unwrap();
    }
    assert_eq!(room.enter(ip("192.0.2.1"), 200), Err(Refused::HostFull), "its own share is used up");
    let (modest, victim) = room.enter(ip("192.0.2.77"), 200).unwrap();
    assert_eq!(victim, Some(2), "the longest idle one of the neighbours that have most");
    for n in 0..5000 {
        _ = room.enter(ip(&format!("192.0.2.{}", n % 5)), 300 + n);
    }
    assert!(room.members.contains_key(&modest) && room.members.contains_key(&stranger));
    assert_eq!(room.members.len(), 101);
}

#[test]
fn who_is_active_stays_where_all_have_as_many() {
    let mut room = Room::new(3);
    let ids: Vec<Id> = (1..4).map(|n| room.enter(ip(&format!("{n}.0.0.1")), n).unwrap().0).collect();
    room.table.touch(ids[0], ip("1.0.0.1"), 10);
    assert_eq!(room.enter(ip("4.0.0.1"), 11).unwrap().1, Some(ids[1]));
}

#[test]
fn a_provider_pushes_out_others_only_so_often() {
    let mut room = Room::new(2000);
    for n in 0..2000_u32 {
        room.enter(std::net::Ipv4Addr::from_bits((10 << 24) + (n << 8)).into(), 0).unwrap();
    }
    let from = |n: u64| ip(&format!("192.0.{}.1", n % 200));
    let pushes = (0..1000).take_while(|n| room.enter(from(*n), 1).is_ok()).count() as u64;
    assert_eq!(pushes, PUSH_BURST);
    assert_eq!(room.enter(from(0), 1), Err(Refused::TooFast));
    assert!(room.enter(ip("193.0.0.1"), 1).is_ok(), "that holds for nobody else");
    assert!(room.enter(from(0), 1 + PUSH_INTERVAL).is_ok());
}

#[test]
fn who_invites_does_not_go_for_its_guest() {
    let mut table = AdmissionTable::default();
    let at = |n: u64| ip(&format!("{n}.0.0.1"));
    for n in 1..4 {
        table.insert(n, at(n), n);
    }
    assert_eq!(table.admit_invited(at(9), SHARES, true, (1, at(1))), Ok(Some(2)));
    assert_eq!(table.admit_invited(at(9), SHARES, false, (1, at(1))), Ok(None));
    let narrow = Shares { per_host: 1, per_network: 1 };
    assert_eq!(table.admit_invited(at(1), narrow, false, (1, at(1))), Err(Refused::HostFull));
    assert_eq!(table.len(), 3);
}

fn address() -> impl Strategy<Value = IpAddr> {
    let v4 = (0..3_u32, 0..3_u32, 0..3_u32, 0..3_u32)
        .prop_map(|(a, b, c, d)| std::net::Ipv4Addr::from_bits((20 + a) << 24 | b << 16 | c << 8 | d).into());
    let v6 = (0..3_u128, 0..3_u128, 0..3_u128, 0..3_u128).prop_map(|(a, b, c, d)| {
        Ipv6Addr::from_bits((0x2000 + a) << 112 | b << 96 | c << 80 | d << 72).into()
    });
    prop_oneof![v4, v6]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever comes and goes: the bounds hold, the table knows who is in it, and a lone client of a region that nobody
    /// else is in is neither refused nor pushed out while there is a region with more than one.
    #[test]
    fn bounds_hold_and_a_lone_client_stays(
        steps in prop::collection::vec((address(), 0..4_u8, 0..500_u64), 1..300),
        size in 7..20_usize,
        per_host in 1..4_usize,
        per_network in 1..6_usize,
        honest_comes in 0..300_usize,
    ) {
        let mut room = Room::new(size);
        room.shares = Shares { per_host, per_network };
        let lone: IpAddr = ip("99.0.0.1");
        let mut honest = None;
        let mut now = 0;
        for (step, (from, kind, passes)) in steps.into_iter().enumerate() {
            now += passes * 1_000_000;
            if step == honest_comes {
                let entered = room.enter(lone, now);
                prop_assert!(entered.is_ok(), "{entered:?}");
                honest = entered.ok().map(|(id, _)| id);
            }
            match kind {
                0 => {
                    let id = room.members.keys().copied().find(|id| Some(*id) != honest);
                    id.into_iter().for_each(|id| room.leave(id));
                }
                _ => _ = room.enter(from, now),
            }
            prop_assert!(room.members.len() <= size);
            prop_assert_eq!(room.members.len(), room.table.len());
            for ip in room.members.values() {
                let of = |prefix: fn(IpAddr) -> Prefix| {
                    room.members.values().filter(|other| prefix(**other) == prefix(*ip)).count()
                };
                prop_assert!(of(Prefix::host) <= per_host && of(Prefix::network) <= per_network);
            }
            // Six other regions and more room than that: somebody has always more than one when it is full.
            prop_assert!(honest.is_none_or(|id| room.members.contains_key(&id)));
        }
    }
}
