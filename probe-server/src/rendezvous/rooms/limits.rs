//! What rooms may take.

use std::time::Duration;

use shared::rendezvous::room::MAX_MEMBERS;

/// What is kept, for how long, for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoomLimits {
    /// Rooms in all; 0 = there are none.
    pub rooms: usize,
    /// Rooms made from one host (IPv4 address, IPv6 /56).
    pub rooms_per_host: usize,
    /// Rooms made from one network (IPv4 /24, IPv6 /48); beyond that, it makes room within itself.
    pub rooms_per_net: usize,
    /// Members in all rooms.
    pub members: usize,
    /// Members in one room at a time, and of whom results are kept.
    pub per_room: usize,
    /// Members from one host (IPv4 address, IPv6 /56): a whole room may be behind one NAT.
    pub per_host: usize,
    /// Members from one network (IPv4 /24, IPv6 /48); beyond that, it makes room within itself.
    pub per_net: usize,
    /// How long a member may stay.
    pub stay: Duration,
    /// Messages of one member.
    pub messages: u32,
    /// Bytes of one member.
    pub bytes: usize,
}

impl Default for RoomLimits {
    fn default() -> Self {
        Self {
            rooms: 256,
            rooms_per_host: 10,
            rooms_per_net: 50,
            members: 1024,
            per_room: MAX_MEMBERS,
            per_host: 40,
            per_net: 200,
            // An hour, and time to leave by oneself.
            stay: Duration::from_secs(3630),
            messages: 1000,
            bytes: 256 * 1024,
        }
    }
}
