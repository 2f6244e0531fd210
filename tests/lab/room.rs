//! Real clients in a room of the server's, each behind a NAT of its own, in one simulated world.

use std::time::Duration;

use nat_check_core::{
    net::sim::{PathSpec, SiteSpec, World},
    progress::Silent,
    punch::{
        IntroError, PunchSetup,
        room::{RoomAudience, RoomNote, RoomSetup, Until, report::RoomDocument, room},
    },
    randomness::Randomness,
    target::Target,
};
use shared::nat::model::{SpecError, Stack};
use tokio::{sync::watch, task::JoinSet};

/// Eight NATs of eight kinds: a pair of each kind of outcome is among theirs.
pub const EIGHT_NATS: [&str; 8] = [
    "open",
    "full-cone",
    "restricted-cone",
    "port-restricted-cone",
    "linux-open-input",
    "symmetric-sequential",
    "symmetric",
    "linux-random",
];

/// Members of a room and everything around them.
#[derive(Clone, Debug)]
pub struct Gathering {
    /// The NATs, as a spec says them; a member is called by the one that it is behind.
    pub nats: Vec<String>,
    /// What everything else follows from.
    pub seed: u64,
}

/// One way to the middle of the Internet, for everybody.
const DELAY: Duration = Duration::from_millis(20);

impl Gathering {
    /// Everybody behind one of these NATs.
    #[must_use]
    pub fn of(nats: &[&str], seed: u64) -> Self {
        Self { nats: nats.iter().map(|nat| (*nat).to_owned()).collect(), seed }
    }

    /// Lets all of them meet, in virtual time: what each reports.
    ///
    /// # Errors
    /// When a spec is none.
    ///
    /// # Panics
    /// When the system has no resources for a runtime.
    pub fn run(&self) -> Result<Vec<Result<RoomDocument, IntroError>>, SpecError> {
        let stacks: Vec<Stack> = self.nats.iter().map(|nat| nat.parse()).collect::<Result<_, _>>()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime of one thread");
        Ok(runtime.block_on(self.in_this_runtime(stacks)))
    }

    async fn in_this_runtime(&self, stacks: Vec<Stack>) -> Vec<Result<RoomDocument, IntroError>> {
        let path = || PathSpec { delay: DELAY, ..PathSpec::default() };
        let mut stacks = stacks.into_iter();
        let mut builder = World::builder(self.seed).path(path());
        if let Some(nat) = stacks.next() {
            builder = builder.nat(nat);
        }
        for nat in stacks {
            builder = builder.site(SiteSpec { nat, path: path(), ..SiteSpec::default() });
        }
        let world = builder.build();
        let target = Target::at(world.server());
        let mut members = JoinSet::new();
        for (number, nat) in self.nats.iter().enumerate() {
            let setup = RoomSetup {
                room: "fleet".parse().ok(),
                name: Some(nat.clone()),
                until: Until::Members(self.nats.len()),
                wait: Duration::from_secs(60),
                punch: PunchSetup {
                    randomness: Randomness::Seeded(self.seed.wrapping_add(number as u64)),
                    ..PunchSetup::default()
                },
            };
            let (net, target) = (world.host(number, 0), target.clone());
            members.spawn(async move {
                room(&setup, net, &target, &Silent, &Deaf, watch::channel(false).1).await
            });
        }
        members.join_all().await
    }
}

struct Deaf;

impl RoomAudience for Deaf {
    fn note(&self, _: RoomNote<'_>) {}
}
