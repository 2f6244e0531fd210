//! The connection of a member of a room: what it says goes in, what there is to be told goes out.

use std::{net::IpAddr, sync::Arc, time::Duration};

use shared::rendezvous::{Refusal, ToClient, ToServer, room::RoomName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Notify,
};

use super::{End, Place, Rendezvous, RoomMember, State, read, rooms::Entrance, write};
use crate::http::Socket;

impl State {
    /// Lets a client into a room. A name that nobody is in is paid for like a wrong code: whoever looks for the rooms of
    /// others finds out slowly.
    pub(super) fn enter(
        &mut self,
        room: Option<RoomName>,
        from: IpAddr,
        entropy: u64,
        now: Duration,
    ) -> Result<Place, End> {
        let is_guess = room.as_ref().is_some_and(|room| !self.rooms.exists(room));
        if room.is_some() && !self.wrong_codes.may_try(from, now) {
            return Err(Refusal::TooFast.into());
        }
        if is_guess {
            self.wrong_codes.charge(from, now);
        }
        let Entrance { member, is_new, stirred } = self.rooms.enter(room, from, entropy, now)?;
        self.counts.entered += 1;
        self.counts.rooms_made += u64::from(is_new);
        let stir = Arc::new(Notify::new());
        self.stirs.insert(member, Arc::clone(&stir));
        self.stir(stirred);
        Ok(Place::Room(member, stir))
    }

    /// There is something to be told to these.
    pub(super) fn stir(&self, members: Vec<RoomMember>) {
        members.iter().filter_map(|member| self.stirs.get(member)).for_each(|stir| stir.notify_one());
    }
}

impl Rendezvous {
    /// Serves a member until it leaves or has to.
    pub(super) async fn be_member<S: AsyncRead + AsyncWrite + Unpin>(
        self: &Arc<Self>,
        socket: &mut Socket<S>,
        member: RoomMember,
        stir: &Notify,
        welcome: &ToClient,
    ) -> End {
        // It leaves even if this task is stopped half-way.
        let _guard = MemberGuard { rendezvous: Arc::clone(self), member };
        socket.get_mut().limit_mut().allow_room();
        if !write(socket, welcome).await {
            return End::Stuck;
        }
        loop {
            loop {
                let next = self.lock().rooms.next(member);
                match next {
                    None => break,
                    Some(Err(refusal)) => return End::Refused(refusal),
                    Some(Ok(message)) if !write(socket, &message).await => return End::Stuck,
                    Some(Ok(_)) => {}
                }
            }
            let until = self.lock().rooms.deadline(member).map(|at| self.started + at);
            tokio::select! {
                biased;
                () = stir.notified() => {}
                text = read(socket) => {
                    let said = match text {
                        Some(text) => text.and_then(|text| self.hear_member(member, &text)),
                        None => return End::Over,
                    };
                    if let Err(refusal) = said {
                        return End::Refused(refusal);
                    }
                    // However much there is to be read, others have their turn.
                    tokio::task::yield_now().await;
                }
                () = tokio::time::sleep_until(until.unwrap_or(self.started)), if until.is_some() => {
                    let now = self.now();
                    let mut state = self.lock();
                    let stirred = state.rooms.expire(member, now);
                    state.stir(stirred);
                }
            }
        }
    }

    fn hear_member(&self, member: RoomMember, text: &str) -> Result<(), Refusal> {
        let message = ToServer::parse(text).map_err(|_| Refusal::BadMessage)?;
        let now = self.now();
        let mut state = self.lock();
        let opened_from = match message {
            ToServer::Invite { code, .. } => state.sessions.opened_from(code, now),
            _ => None,
        };
        let stirred = state.rooms.handle(member, message, text.len(), opened_from, now)?;
        state.stir(stirred);
        Ok(())
    }
}

/// A member's place, given back when it is dropped.
struct MemberGuard {
    rendezvous: Arc<Rendezvous>,
    member: RoomMember,
}

impl Drop for MemberGuard {
    fn drop(&mut self) {
        let now = self.rendezvous.now();
        let mut state = self.rendezvous.lock();
        let stirred = state.rooms.leave(self.member, now);
        state.stirs.remove(&self.member);
        state.stir(stirred);
    }
}
