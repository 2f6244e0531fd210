//! Rooms: who is let in, who is paired with whom, who is told what, and that nobody spoils it for the others.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use proptest::prelude::*;
use shared::rendezvous::{Payload, Role, VERSION};

use super::*;
use room::{INVITING, PREPARING, SILENCE, TRYING};

const T0: Duration = Duration::from_secs(1000);

impl Rooms {
    /// What a member says that has opened the sessions itself which it invites to.
    fn hear(
        &mut self,
        member: RoomMember,
        message: ToServer,
        size: usize,
        now: Duration,
    ) -> Result<Vec<RoomMember>, Refusal> {
        let own = self.address_of(member);
        self.handle(member, message, size, own, now)
    }
}

fn ip(n: u32) -> IpAddr {
    Ipv4Addr::from_bits(0xCB00_0000 + (n << 16)).into()
}

fn rooms() -> Rooms {
    Rooms::new(RoomLimits::default())
}

fn name(text: &str) -> Option<RoomName> {
    Some(text.parse().unwrap())
}

fn payload(text: &str) -> Payload {
    Payload::write(&text).unwrap()
}

fn code() -> Code {
    Code::EXAMPLE.parse().unwrap()
}

/// All that a member is told now.
fn told(rooms: &mut Rooms, member: RoomMember) -> Vec<ToClient> {
    std::iter::from_fn(|| rooms.next(member)).map_while(Result::ok).collect()
}

/// The pairs in it.
fn pairs(messages: &[ToClient]) -> Vec<(u32, Role, Option<Code>)> {
    let pair = |message: &ToClient| match message {
        ToClient::Pair { peer, role, code } => Some((*peer, *role, *code)),
        _ => None,
    };
    messages.iter().filter_map(pair).collect()
}

/// The room as a member knows it after these: who is here, and who has said what of whom.
fn known(messages: &[ToClient]) -> (BTreeMap<u32, bool>, BTreeMap<(u32, u32), String>) {
    let (mut here, mut said) = (BTreeMap::new(), BTreeMap::new());
    for message in messages {
        if let ToClient::Room { members, results } = message {
            here.extend(members.iter().map(|member| (member.id, member.here)));
            said.extend(
                results.iter().map(|r| ((r.from, r.to), r.result.read::<String>().unwrap_or_default())),
            );
        }
    }
    (here, said)
}

/// So many who are in one room and can be paired.
fn ready(rooms: &mut Rooms, count: u32) -> Vec<RoomMember> {
    (1..=count)
        .map(|n| {
            let member = rooms.enter(name("team"), ip(n), 0, T0).unwrap().member;
            rooms.hear(member, ToServer::Available { payload: payload("me") }, 30, T0).unwrap();
            member
        })
        .collect()
}

fn result(peer: u32, text: &str) -> ToServer {
    ToServer::Result { peer, payload: payload(text) }
}

#[test]
fn two_are_paired_and_both_hear_what_each_says() {
    let mut rooms = rooms();
    let members = ready(&mut rooms, 2);
    let first = told(&mut rooms, members[0]);
    assert!(matches!(&first[0], ToClient::Entered { you: 1, .. }));
    assert_eq!(pairs(&first), [(2, Role::First, None)]);
    assert_eq!(pairs(&told(&mut rooms, members[1])), [], "not before there is a code");
    let stirred = rooms.hear(members[0], ToServer::Invite { peer: 2, code: code() }, 30, T0).unwrap();
    assert!(stirred.contains(&members[1]));
    assert_eq!(pairs(&told(&mut rooms, members[1])), [(1, Role::Second, Some(code()))]);
    rooms.hear(members[0], result(2, "yes"), 30, T0).unwrap();
    rooms.hear(members[1], result(1, "no"), 30, T0).unwrap();
    for member in members {
        let said = known(&told(&mut rooms, member)).1;
        assert_eq!(said, [((1, 2), "yes".into()), ((2, 1), "no".into())].into(), "as each said it");
        assert_eq!(told(&mut rooms, member), [], "once");
    }
}

#[test]
fn a_pair_without_a_session_is_over_for_everybody() {
    let mut rooms = rooms();
    let members = ready(&mut rooms, 3);
    rooms.hear(members[0], result(2, "no session"), 30, T0).unwrap();
    for member in [members[0], members[1], members[2]] {
        let said = known(&told(&mut rooms, member)).1;
        assert_eq!(said, [((1, 2), "no session".into()), ((2, 1), String::new())].into());
    }
    // Not for one that has been invited: that will say so itself.
    rooms.hear(members[0], ToServer::Invite { peer: 3, code: code() }, 30, T0).unwrap();
    rooms.hear(members[0], result(3, "yes"), 30, T0).unwrap();
    let said = known(&told(&mut rooms, members[1])).1;
    assert_eq!(said, [((1, 3), "yes".into())].into());
}

#[test]
fn only_codes_of_the_members_own_sessions_are_passed_on() {
    for opened_from in [None, Some(ip(2))] {
        let mut rooms = rooms();
        let members = ready(&mut rooms, 2);
        let invite = || ToServer::Invite { peer: 2, code: code() };
        rooms.handle(members[0], invite(), 30, opened_from, T0).unwrap();
        assert!(!rooms.has_given(code()));
        let heard = told(&mut rooms, members[1]);
        assert_eq!((pairs(&heard), known(&heard).1), (vec![], [((2, 1), String::new())].into()));
        assert_eq!(rooms.handle(members[0], invite(), 30, Some(ip(1)), T0), Ok(vec![]), "it had its turn");
        rooms.hear(members[0], result(2, "nobody came"), 30, T0).unwrap();
        assert_eq!(known(&told(&mut rooms, members[1])).1, [((1, 2), "nobody came".into())].into());
    }
    let mut rooms = rooms();
    let members = ready(&mut rooms, 2);
    rooms.hear(members[0], ToServer::Invite { peer: 2, code: code() }, 30, T0).unwrap();
    assert!(rooms.has_given(code()) && !rooms.has_given(Code::from_bits(1)));
    rooms.hear(members[1], result(1, "yes"), 30, T0).unwrap();
    assert!(!rooms.has_given(code()), "it has been there");
}

#[test]
fn what_changes_nothing_wakes_nobody() {
    let mut rooms = rooms();
    let members = ready(&mut rooms, 3);
    for (who, idle) in [
        (0, result(3, "of another pair")),
        (0, result(7, "of nobody")),
        (2, result(1, "not paired")),
        (1, ToServer::Invite { peer: 1, code: code() }),
        (2, ToServer::Invite { peer: 9, code: code() }),
    ] {
        assert_eq!(rooms.hear(members[who], idle, 30, T0), Ok(vec![]));
    }
    assert_eq!(rooms.hear(members[2], ToServer::Ping { id: 1 }, 30, T0), Ok(vec![members[2]]));
    assert_eq!(rooms.hear(members[0], result(2, "yes"), 30, T0), Ok(members));
}

#[test]
fn who_is_refused_pushes_out_nobody() {
    let mut rooms = Rooms::new(RoomLimits { rooms: 1, per_host: 1, ..RoomLimits::default() });
    let member = rooms.enter(name("a"), ip(1), 0, T0).unwrap().member;
    assert_eq!(rooms.enter(name("b"), ip(1), 0, T0).unwrap_err(), Refusal::HostFull);
    assert!(matches!(rooms.next(member), Some(Ok(ToClient::Entered { .. }))));
    // Whoever comes in takes the room's place, and no other one's.
    let mut rooms = Rooms::new(RoomLimits { rooms: 2, members: 3, ..RoomLimits::default() });
    let pair = [ip(1), ip(2)].map(|ip| rooms.enter(name("a"), ip, 0, T0).unwrap().member);
    let other = rooms.enter(name("b"), ip(3), 0, T0).unwrap().member;
    rooms.enter(name("c"), ip(4), 0, T0).unwrap();
    assert_eq!(rooms.count().0, 2);
    let is_in = |rooms: &mut Rooms, member| matches!(rooms.next(member), Some(Ok(_)));
    let stay = [pair[0], pair[1], other].map(|member| is_in(&mut rooms, member));
    assert!([[false, false, true], [true, true, false]].contains(&stay), "{stay:?}");
}

#[test]
fn results_are_kept_of_those_who_are_there_or_have_met_them() {
    let mut rooms = Rooms::new(RoomLimits { per_room: 2, ..RoomLimits::default() });
    let members = ready(&mut rooms, 2);
    rooms.hear(members[0], ToServer::Invite { peer: 2, code: code() }, 30, T0).unwrap();
    rooms.leave(members[0], T0);
    told(&mut rooms, members[1]);
    let third = rooms.enter(name("team"), ip(3), 0, T0).unwrap().member;
    rooms.hear(members[1], result(1, "it is forgotten"), 30, T0).unwrap();
    assert_eq!(known(&told(&mut rooms, third)).1, [].into());

    let mut rooms = Rooms::new(RoomLimits::default());
    let members = ready(&mut rooms, 3);
    settle(&mut rooms, &members, "yes");
    for leaver in &members[..2] {
        members.iter().for_each(|member| drop(told(&mut rooms, *member)));
        rooms.leave(*leaver, T0);
    }
    let late = rooms.enter(name("team"), ip(4), 0, T0).unwrap().member;
    let said: Vec<_> = known(&told(&mut rooms, late)).1.into_keys().collect();
    assert_eq!(
        said,
        [(1, 3), (2, 3), (3, 1), (3, 2)],
        "not what the two who are gone have said of each other"
    );
}

#[test]
fn a_code_is_made_and_nobody_enters_one_that_was_not() {
    let mut rooms = rooms();
    let entrance = rooms.enter(None, ip(1), 7, T0).unwrap();
    assert!(entrance.is_new);
    let Some(Ok(ToClient::Entered { room, .. })) = rooms.next(entrance.member) else { panic!() };
    assert_eq!(room, Code::from_bits(7).into());
    assert!(!rooms.enter(Some(room.clone()), ip(2), 7, T0).unwrap().is_new);
    let unknown = rooms.enter(Some(Code::from_bits(8).into()), ip(2), 9, T0);
    assert_eq!(unknown.unwrap_err(), Refusal::UnknownRoom);
    assert_eq!(rooms.enter(None, ip(2), 7, T0).unwrap_err(), Refusal::Full, "no stranger comes by chance");
    assert_eq!(rooms.count(), (1, 2));
}

#[test]
fn a_room_and_the_server_have_limits() {
    let mut rooms = Rooms::new(RoomLimits { rooms: 2, members: 35, ..RoomLimits::default() });
    let members = ready(&mut rooms, 32);
    assert_eq!(rooms.enter(name("team"), ip(40), 0, T0).unwrap_err(), Refusal::RoomFull);
    rooms.leave(members[3], T0);
    assert_eq!(rooms.enter(name("team"), ip(40), 0, T0).unwrap_err(), Refusal::RoomFull, "not all know that");
    for member in &members {
        told(&mut rooms, *member);
    }
    assert!(rooms.enter(name("team"), ip(40), 0, T0).is_ok(), "in place of one that left");
    assert_eq!(rooms.enter(name("team"), ip(41), 0, T0).unwrap_err(), Refusal::RoomFull);
    assert!(rooms.enter(name("other"), ip(42), 0, T0).is_ok());
    let mut none = Rooms::new(RoomLimits { rooms: 0, ..RoomLimits::default() });
    assert_eq!(
        none.enter(None, ip(1), 1, T0).unwrap_err(),
        Refusal::BadMessage,
        "as one that knows no rooms"
    );
}

#[test]
fn whoever_makes_many_rooms_makes_room_for_others() {
    let limits = RoomLimits { rooms: 4, rooms_per_host: 3, rooms_per_net: 3, ..RoomLimits::default() };
    let mut rooms = Rooms::new(limits);
    let greedy = ["a", "b", "c"].map(|n| rooms.enter(name(n), ip(1), 0, T0).unwrap().member);
    assert_eq!(rooms.enter(name("d"), ip(1), 0, T0).unwrap_err(), Refusal::HostFull);
    let team = rooms.enter(name("team"), ip(2), 0, T0).unwrap().member;
    rooms.enter(name("team"), ip(3), 0, T0).unwrap();
    let entrance = rooms.enter(name("third"), ip(4), 0, T0).unwrap();
    assert!(entrance.stirred.contains(&greedy[0]));
    assert_eq!(rooms.next(greedy[0]), Some(Err(Refusal::Full)));
    assert!(matches!(rooms.next(team), Some(Ok(_))), "it has one room only");
    assert_eq!(rooms.count(), (4, 5));
}

#[test]
fn one_host_takes_its_share_and_makes_room_within_its_network() {
    let mut rooms = Rooms::new(RoomLimits { per_host: 2, per_net: 3, ..RoomLimits::default() });
    let neighbour = |n: u8| IpAddr::from([203, 0, 113, n]);
    let first = rooms.enter(name("a"), neighbour(1), 0, T0).unwrap().member;
    rooms.enter(name("b"), neighbour(1), 0, T0).unwrap();
    assert_eq!(rooms.enter(name("c"), neighbour(1), 0, T0).unwrap_err(), Refusal::HostFull);
    rooms.enter(name("c"), neighbour(2), 0, T0).unwrap();
    rooms.enter(name("d"), neighbour(3), 0, T0).unwrap();
    assert_eq!(rooms.next(first), Some(Err(Refusal::Full)), "the one that came first of the largest host");
    assert_eq!(rooms.count(), (3, 3));
}

#[test]
fn what_is_out_of_place_is_refused_or_counts_for_nothing() {
    let mut rooms = rooms();
    let members = ready(&mut rooms, 3);
    for wrong in [
        ToServer::Open { version: VERSION },
        ToServer::Enter { version: VERSION, room: None },
        ToServer::PeerPing { id: 1 },
        ToServer::Available { payload: payload("again") },
    ] {
        assert_eq!(rooms.hear(members[0], wrong, 30, T0), Err(Refusal::BadMessage));
    }
    let long = Payload::write(&"x".repeat(MAX_ROOM_PAYLOAD)).unwrap();
    assert_eq!(
        rooms.hear(members[0], ToServer::Result { peer: 2, payload: long }, 300, T0),
        Err(Refusal::TooMuch)
    );
    // 1 and 2 are a pair; nobody speaks for a pair of others, and a code goes only to one's own peer.
    rooms.hear(members[0], result(3, "lie"), 30, T0).unwrap();
    rooms.hear(members[2], result(1, "lie"), 30, T0).unwrap();
    rooms.hear(members[2], ToServer::Invite { peer: 1, code: code() }, 30, T0).unwrap();
    rooms.hear(members[1], ToServer::Invite { peer: 1, code: code() }, 30, T0).unwrap();
    let heard = told(&mut rooms, members[0]);
    assert_eq!((known(&heard).1, pairs(&heard)), (BTreeMap::new(), vec![(2, Role::First, None)]));
}

#[test]
fn who_says_too_much_is_sent_away() {
    let mut rooms = Rooms::new(RoomLimits { messages: 5, ..RoomLimits::default() });
    let member = rooms.enter(name("team"), ip(1), 0, T0).unwrap().member;
    for id in 0..5 {
        rooms.hear(member, ToServer::Ping { id }, 20, T0).unwrap();
    }
    assert_eq!(rooms.hear(member, ToServer::Ping { id: 5 }, 20, T0), Err(Refusal::TooMuch));
    let mut rooms = Rooms::new(RoomLimits { bytes: 100, ..RoomLimits::default() });
    let member = rooms.enter(name("team"), ip(1), 0, T0).unwrap().member;
    assert_eq!(rooms.hear(member, ToServer::Ping { id: 5 }, 101, T0), Err(Refusal::TooMuch));
}

#[test]
fn who_hangs_is_sent_away_and_its_peer_goes_on() {
    // One that opens no session, one that never says what came of it, one that is never ready, one that is silent.
    let mut rooms = rooms();
    let members = ready(&mut rooms, 3);
    let alive = |rooms: &mut Rooms, at: Duration, who: &[RoomMember]| {
        who.iter().for_each(|member| drop(rooms.hear(*member, ToServer::Ping { id: 0 }, 9, at)));
    };
    told(&mut rooms, members[1]);
    alive(&mut rooms, T0 + INVITING, &members);
    assert_eq!(rooms.deadline(members[1]), Some(T0 + INVITING));
    let now = T0 + INVITING;
    assert!(rooms.expire(members[2], now).contains(&members[1]));
    assert_eq!(rooms.next(members[0]), Some(Err(Refusal::Expired)));
    assert_eq!(pairs(&told(&mut rooms, members[1])), [(3, Role::First, None)], "with the next one");

    rooms.hear(members[1], ToServer::Invite { peer: 3, code: code() }, 30, now).unwrap();
    rooms.hear(members[2], result(2, "nobody came"), 30, now).unwrap();
    alive(&mut rooms, now + TRYING, &members[1..]);
    rooms.expire(members[2], now + TRYING);
    assert_eq!(rooms.next(members[1]), Some(Err(Refusal::Expired)));
    let now = now + TRYING;
    let (here, _) = known(&told(&mut rooms, members[2]));
    assert_eq!(here, [(1, false), (2, false), (3, true)].into());

    let late = rooms.enter(name("team"), ip(9), 0, now).unwrap().member;
    alive(&mut rooms, now + PREPARING, &[late, members[2]]);
    rooms.expire(members[2], now + PREPARING);
    told(&mut rooms, members[2]);
    assert_eq!(rooms.next(late), Some(Err(Refusal::Expired)), "never ready");
    rooms.expire(members[2], now + PREPARING + SILENCE);
    assert_eq!(rooms.next(members[2]), Some(Err(Refusal::Expired)), "silent");
    assert_eq!(rooms.count(), (0, 0));
}

#[test]
fn who_comes_and_goes_keeps_nobody_from_anybody_else() {
    let mut rooms = rooms();
    let members = ready(&mut rooms, 3);
    // 1 and 2 are a pair. Somebody comes, is free, and is paired with 3; when it leaves, 3 says so and is free for 1.
    let visitor = rooms.enter(name("team"), ip(9), 0, T0).unwrap().member;
    rooms.hear(visitor, ToServer::Available { payload: payload("me") }, 9, T0).unwrap();
    rooms.leave(visitor, T0);
    rooms.hear(members[2], result(4, "left"), 9, T0).unwrap();
    let again = rooms.enter(name("team"), ip(9), 0, T0).unwrap().member;
    rooms.hear(members[0], result(2, "yes"), 9, T0).unwrap();
    told(&mut rooms, again);
    assert_eq!(pairs(&told(&mut rooms, members[0])), [(2, Role::First, None), (3, Role::First, None)]);
}

#[test]
fn news_of_a_full_room_come_in_messages_that_fit() {
    let mut rooms = rooms();
    let members = ready(&mut rooms, 32);
    let long = "x".repeat(MAX_ROOM_PAYLOAD - 2);
    settle(&mut rooms, &members, &long);
    for member in &members {
        let messages = told(&mut rooms, *member);
        for message in &messages {
            assert!(serde_json::to_string(message).unwrap().len() < shared::rendezvous::MAX_MESSAGE);
        }
        assert_eq!(known(&messages).1.len(), 32 * 31);
    }
}

/// Everybody does what it is told to until there is no pair left: the most pairs that a member had at a time.
fn settle(rooms: &mut Rooms, members: &[RoomMember], says: &str) {
    let mut running: BTreeSet<(u32, u32)> = BTreeSet::new();
    loop {
        let mut moved = false;
        for (member, id) in members.iter().zip(1..) {
            let room = rooms.room_of(*member).unwrap().0;
            let busy = room.busy(id);
            let Some((peer, _)) = busy else { continue };
            moved = true;
            running.insert((id, peer));
            rooms.hear(*member, ToServer::Invite { peer, code: code() }, 9, T0).unwrap();
            rooms.hear(*member, result(peer, says), 9, T0).unwrap();
        }
        if !moved {
            break;
        }
    }
}

proptest! {
    /// Whatever members do, each is paired with at most one at a time, with each other at most once, and in the end nothing is left.
    #[test]
    fn pairs_are_of_two_and_nothing_stays(steps in prop::collection::vec((0u8..8, 0u8..6, 0u64..40), 1..200)) {
        let limits = RoomLimits { rooms: 3, members: 8, per_room: 4, ..RoomLimits::default() };
        let mut rooms = Rooms::new(limits);
        let (mut all, mut now): (Vec<(RoomMember, u32)>, _) = (Vec::new(), T0);
        let mut tried: BTreeMap<RoomMember, Vec<u32>> = BTreeMap::new();
        for (what, who, passes) in steps {
            now += Duration::from_secs(passes);
            let one = all.get(usize::from(who)).copied();
            let room = name(["a", "b", "c", "d"][usize::from(who) % 4]);
            match (what, one) {
                (0 | 1, _) => if let Ok(entrance) = rooms.enter(room, ip(who.into()), 0, now) {
                    let Some(Ok(ToClient::Entered { you, .. })) = rooms.next(entrance.member) else { panic!() };
                    all.push((entrance.member, you));
                },
                (2, Some((member, _))) => drop(rooms.hear(member, ToServer::Available { payload: payload("me") }, 9, now)),
                (3, Some((member, _))) => for peer in 0..6 {
                    drop(rooms.hear(member, ToServer::Invite { peer, code: code() }, 9, now));
                },
                (4, Some((member, _))) => for peer in 0..6 {
                    drop(rooms.hear(member, result(peer, "said"), 9, now));
                },
                (5, Some((member, _))) => drop(rooms.expire(member, now)),
                (6, Some((member, _))) => drop(rooms.leave(member, now)),
                _ => {}
            }
            let (count, members) = rooms.count();
            prop_assert!(count <= 3 && members <= 8);
            for (member, id) in &all {
                let Ok((room, at)) = rooms.room_of(*member) else { continue };
                prop_assert_eq!(at, *id);
                if let Some((peer, role)) = room.busy(*id) {
                    prop_assert_eq!(role, if *id < peer { Role::First } else { Role::Second });
                    if let Some((of_peer, peers_role)) = room.busy(peer)
                        && of_peer == *id {
                        prop_assert_eq!(peers_role, role.other());
                    }
                }
                let begun = pairs(&told(&mut rooms, *member)).into_iter().map(|(peer, ..)| peer);
                tried.entry(*member).or_default().extend(begun);
            }
            for peers in tried.values() {
                prop_assert_eq!(peers.iter().collect::<BTreeSet<_>>().len(), peers.len());
            }
        }
        for (member, _) in all {
            rooms.leave(member, now);
        }
        prop_assert_eq!(rooms.count(), (0, 0));
        prop_assert!(rooms.places.is_empty());
    }
}
