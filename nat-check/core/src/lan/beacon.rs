//! The beacon: what `nat-check lan` sends once a second by each way, at most 379 bytes. Pure.
//!
//! ```text
//! magic and version   4   "NCL1"
//! way                 1   by which this one is sent
//! flags               1   1 the gateway answers, 2 settled, 4 leaving
//! ways                1   all ways by which the sender sends in this round, a bit each
//! records             1   how many follow
//! round               2
//! id, nonce           8+8 of the sender, for this run
//! endpoint            6   IPv4 address and port that packets to the sender go to
//! endpoint over IPv6  18  the same, zero where there is none
//! each record:        47  what `to` has heard of `from`
//!   from, to          8+8
//!   endpoint          6   of `from`
//!   nonce             8   of `from`, which only who hears it can repeat; zero where nothing was heard
//!   age               1   rounds since `to` heard `from` last
//!   sent              8   for each way: rounds in which `from` sent so, of those in which `to` heard anything of it
//!   heard             8   for each way: in how many of these `to` heard it
//! ```

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};

use super::way::Way;

/// Names a run on a host.
pub(crate) type Id = [u8; 8];
/// What a run says and only who hears it can repeat.
pub(crate) type Nonce = [u8; 8];

/// Everything that is sent, all bytes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Beacon {
    pub(crate) way: Way,
    pub(crate) flags: u8,
    pub(crate) ways: u8,
    pub(crate) round: u16,
    pub(crate) id: Id,
    pub(crate) nonce: Nonce,
    pub(crate) at: SocketAddrV4,
    pub(crate) at6: Option<SocketAddrV6>,
    pub(crate) records: Vec<Record>,
}

pub(crate) const REACHES_GATEWAY: u8 = 1;
pub(crate) const SETTLED: u8 = 2;
pub(crate) const LEAVING: u8 = 4;

/// What one host has heard of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) from: Id,
    pub(crate) to: Id,
    pub(crate) at: SocketAddrV4,
    pub(crate) nonce: Nonce,
    pub(crate) age: u8,
    pub(crate) tally: Tally,
}

/// For each way in how many rounds something was sent, and heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) sent: [u8; 8],
    pub(crate) heard: [u8; 8],
}

impl Tally {
    /// Whether anything was heard.
    pub(crate) fn is_heard(&self) -> bool {
        self.heard.iter().any(|heard| *heard > 0)
    }
}

const MAGIC: &[u8; 4] = b"NCL1";
pub(crate) const HEADER: usize = 50;
pub(crate) const RECORD: usize = 47;
/// Records in a beacon.
pub(crate) const MOST_RECORDS: usize = 7;
/// Length of the longest beacon.
pub(crate) const LONGEST: usize = HEADER + MOST_RECORDS * RECORD;
/// No program is spoken to below this port.
const LOWEST_PORT: u16 = 1024;

impl Beacon {
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(LONGEST);
        bytes.extend_from_slice(MAGIC);
        let records = &self.records[..self.records.len().min(MOST_RECORDS)];
        bytes.extend_from_slice(&[self.way.number() as u8, self.flags, self.ways, records.len() as u8]);
        bytes.extend_from_slice(&self.round.to_be_bytes());
        bytes.extend_from_slice(&self.id);
        bytes.extend_from_slice(&self.nonce);
        endpoint(&mut bytes, self.at);
        let (ip6, port6) = self.at6.map_or((Ipv6Addr::UNSPECIFIED, 0), |at| (*at.ip(), at.port()));
        bytes.extend_from_slice(&ip6.octets());
        bytes.extend_from_slice(&port6.to_be_bytes());
        for record in records {
            bytes.extend_from_slice(&record.from);
            bytes.extend_from_slice(&record.to);
            endpoint(&mut bytes, record.at);
            bytes.extend_from_slice(&record.nonce);
            bytes.push(record.age);
            bytes.extend_from_slice(&record.tally.sent);
            bytes.extend_from_slice(&record.tally.heard);
        }
        bytes
    }

    /// Reads one; none where it is none, or says what cannot be.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        if take(&mut rest)? != *MAGIC {
            return None;
        }
        let [way, flags, ways, count] = take(&mut rest)?;
        let way = *Way::ALL.get(usize::from(way))?;
        let round = u16::from_be_bytes(take(&mut rest)?);
        let (id, nonce) = (take(&mut rest)?, take(&mut rest)?);
        let at = read_endpoint(&mut rest)?;
        let ip6 = Ipv6Addr::from(take::<16>(&mut rest)?);
        let port6 = u16::from_be_bytes(take(&mut rest)?);
        let at6 = match (ip6.is_unicast_link_local(), port6) {
            (true, LOWEST_PORT..) => Some(SocketAddrV6::new(ip6, port6, 0, 0)),
            (false, 0) if ip6.is_unspecified() => None,
            _ => return None,
        };
        let is_sound = id != [0; 8] && nonce != [0; 8] && ways & way.bit() != 0;
        if !is_sound || usize::from(count) > MOST_RECORDS || rest.len() != usize::from(count) * RECORD {
            return None;
        }
        let records = (0..count).map(|_| record(&mut rest)).collect::<Option<_>>()?;
        Some(Self { way, flags, ways, round, id, nonce, at, at6, records })
    }
}

fn record(rest: &mut &[u8]) -> Option<Record> {
    let (from, to) = (take(rest)?, take(rest)?);
    let at = read_endpoint(rest)?;
    let nonce = take(rest)?;
    let [age] = take(rest)?;
    let tally = Tally { sent: take(rest)?, heard: take(rest)? };
    let is_sound = tally.sent.iter().zip(&tally.heard).all(|(sent, heard)| heard <= sent)
        && from != to
        && (tally.is_heard() <= (nonce != [0; 8]));
    is_sound.then_some(Record { from, to, at, nonce, age, tally })
}

fn endpoint(bytes: &mut Vec<u8>, at: SocketAddrV4) {
    bytes.extend_from_slice(&at.ip().octets());
    bytes.extend_from_slice(&at.port().to_be_bytes());
}

fn read_endpoint(rest: &mut &[u8]) -> Option<SocketAddrV4> {
    let ip = Ipv4Addr::from(take::<4>(rest)?);
    let port = u16::from_be_bytes(take(rest)?);
    (port >= LOWEST_PORT).then_some(SocketAddrV4::new(ip, port))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, more) = rest.split_first_chunk()?;
    *rest = more;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beacon(records: usize) -> Beacon {
        let tally = Tally { sent: [9; 8], heard: [0, 1, 2, 3, 4, 5, 6, 9] };
        let at = "192.168.77.3:50000".parse().unwrap();
        let record = Record { from: [1; 8], to: [2; 8], at, nonce: [3; 8], age: 4, tally };
        Beacon {
            way: Way::LimitedBroadcast,
            flags: REACHES_GATEWAY,
            ways: 0xff,
            round: 513,
            id: [2; 8],
            nonce: [7; 8],
            at: "192.168.77.2:40000".parse().unwrap(),
            at6: Some("[fe80::2]:40001".parse().unwrap()),
            records: vec![record; records],
        }
    }

    #[test]
    fn what_is_written_is_read_and_is_small() {
        for records in 0..=MOST_RECORDS {
            let written = beacon(records).write();
            assert_eq!(written.len(), HEADER + records * RECORD);
            assert_eq!(Beacon::read(&written), Some(beacon(records)));
        }
        assert!(LONGEST <= 400, "{LONGEST}");
        assert_eq!(beacon(MOST_RECORDS + 5).write().len(), LONGEST);
        let alone = Beacon { at6: None, ..beacon(0) };
        assert_eq!(Beacon::read(&alone.write()), Some(alone));
    }

    #[test]
    fn what_cannot_be_is_not_read() {
        let sound = beacon(2).write();
        for length in 0..sound.len() {
            assert_eq!(Beacon::read(&sound[..length]), None, "{length}");
        }
        assert_eq!(Beacon::read(&[sound.clone(), vec![0]].concat()), None, "longer");
        let with = |at: usize, byte: u8| {
            let mut bytes = sound.clone();
            bytes[at] = byte;
            Beacon::read(&bytes)
        };
        assert_eq!(with(0, b'X'), None, "magic");
        assert_eq!(with(3, b'2'), None, "version");
        assert_eq!(with(4, 8), None, "no such way");
        assert_eq!(with(6, 0x01), None, "sent by a way by which it does not send");
        assert_eq!(with(7, 3), None, "more records than there are");
        assert_eq!(with(30, 3), None, "a port below 1024");
        assert_eq!(with(32, 0x20), None, "an address that is not of the link");
        assert_eq!(with(HEADER + 46, 10), None, "more heard than sent");
        assert!(with(9, 7).is_some(), "any round may be");
        let of_itself = Beacon { records: vec![Record { to: [1; 8], ..beacon(1).records[0] }], ..beacon(0) };
        assert_eq!(Beacon::read(&of_itself.write()), None);
        let unproven =
            Beacon { records: vec![Record { nonce: [0; 8], ..beacon(1).records[0] }], ..beacon(0) };
        assert_eq!(Beacon::read(&unproven.write()), None, "heard without a nonce");
        for nothing in [Beacon { id: [0; 8], ..beacon(0) }, Beacon { nonce: [0; 8], ..beacon(0) }] {
            assert_eq!(Beacon::read(&nothing.write()), None);
        }
    }
}
