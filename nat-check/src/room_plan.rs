//! `nat-check room`: its command line, checked and completed.

use std::time::Duration;

use shared::rendezvous::room::{MAX_MEMBERS, RoomName};

use nat_check_core::punch::room::{RoomSetup, Until};

use crate::{
    args::RoomArgs,
    punch_plan::{Around, PunchFormat, PunchPlan},
    usage::{self, UsageError},
};

/// A stay in a room, ready to go.
#[derive(Clone, Debug)]
pub struct RoomPlan {
    /// How the server is reached, how pairs are tried, how the report is printed.
    pub punch: PunchPlan,
    /// How the room is entered, and when it is left.
    pub setup: RoomSetup,
}

/// Longest name of a member, in characters.
const LONGEST_NAME: usize = 32;
/// Longest stay, in seconds: servers allow no more.
const LONGEST_STAY: f64 = 3600.0;

impl RoomPlan {
    /// Checks and completes the command line. `server` is NAT_CHECK_SERVER, if it is set.
    ///
    /// # Errors
    /// The first value that makes no sense.
    pub fn new(args: &RoomArgs, server: Option<&str>) -> Result<Self, UsageError> {
        let punch = PunchPlan::new(&args.as_punch(), Around { server, code: None })?;
        let name = |text: &String| {
            let name = text.parse::<RoomName>();
            // What was typed may be anything.
            name.map_err(|why| UsageError::Room {
                name: text.escape_debug().take(LONGEST_NAME).collect(),
                why,
            })
        };
        let called = |name: &String| {
            let fits =
                !name.is_empty() && name.chars().count() <= LONGEST_NAME && !name.contains(char::is_control);
            let wrong =
                format!("a name has 1 to {LONGEST_NAME} characters, none of them a control character");
            if fits { Ok(name.clone()) } else { Err(UsageError::value("as", name.escape_debug(), wrong)) }
        };
        let stay = |seconds| usage::seconds("for", seconds, 1.0, LONGEST_STAY);
        let until = match (args.members, args.stay.map(stay).transpose()?) {
            (_, Some(stay)) => Until::After(stay),
            (Some(members), None) if (2..=MAX_MEMBERS).contains(&members) => Until::Members(members),
            (Some(members), None) => {
                return Err(UsageError::value("members", members, format!("not 2 to {MAX_MEMBERS}")));
            }
            (None, None) => Until::Settled,
        };
        let setup = RoomSetup {
            room: args.room.as_ref().map(name).transpose()?,
            name: args.called.as_ref().map(called).transpose()?,
            until,
            wait: punch.setup.wait,
            punch: nat_check_core::punch::PunchSetup { hold: Duration::ZERO, ..punch.setup.clone() },
        };
        Ok(Self { punch, setup })
    }

    /// What the other machines have to run, up to the name.
    #[must_use]
    pub fn invitation(&self, room: &RoomName) -> String {
        self.punch.invitation_to(&format!("room {room}"))
    }

    /// How the report is printed.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.punch.format == PunchFormat::Json
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Args, Command};

    fn plan(line: &str) -> Result<RoomPlan, UsageError> {
        let words = ["nat-check", "room"].into_iter().chain(line.split_whitespace());
        let Some(Command::Room(args)) = Args::try_parse_from(words).unwrap().command else {
            panic!("no room")
        };
        RoomPlan::new(&args, Some("192.0.2.1"))
    }

    #[test]
    fn a_room_is_planned() {
        let plan_of = |line: &str| plan(line).unwrap().setup;
        assert_eq!(plan_of("").room, None);
        assert_eq!((plan_of("").until, plan_of("").wait), (Until::Settled, Duration::from_secs(60)));
        assert_eq!(plan_of("Team-7").room.unwrap().to_string(), "team-7");
        assert_eq!(plan_of("--members 8").until, Until::Members(8));
        assert_eq!(plan_of("--for 5m").until, Until::After(Duration::from_secs(300)));
        assert_eq!(plan_of("--as berlin").name.as_deref(), Some("berlin"));
        let told = plan("--no-tls").unwrap().invitation(&"team".parse().unwrap());
        assert_eq!(told, "nat-check room team --server 192.0.2.1 --no-tls");
    }

    #[test]
    fn what_makes_no_sense_is_told_in_one_line() {
        for wrong in
            ["a/b", "--members 1", "--members 33", "--for 0", "--for 2h", "--wait 601", "--as \u{1b}[2J"]
        {
            let told = plan(wrong).unwrap_err().to_string();
            assert!(!told.contains(char::is_control), "{told:?}");
        }
        assert!(plan(&"x".repeat(65)).is_err());
        assert!(plan(&format!("--as {}", "x".repeat(33))).is_err());
    }
}
