//! The corpus of tests/smuggling, and what plays it: a client that sends bytes as they are, a recorder that takes plain HTTP/1.1
//! only, and the judgement of what both saw.

mod bytes;
mod client;
mod corpus;
mod h2;
mod judge;
mod place;
mod recorder;

use std::io;
use std::time::Duration;

pub use self::client::{Connect, connect};
pub use self::corpus::{Case, corpus};
pub use self::judge::{Outcome, Verdict};
pub use self::place::{Place, TABLES};
pub use self::recorder::Recorder;

use self::corpus::Sent;

/// For what is still under way after the client has seen its answers.
const SETTLE: Duration = Duration::from_millis(40);

/// What is played against: a proxy, and behind it the recorder.
pub struct Table<'a> {
    pub recorder: &'a Recorder,
    pub connect: &'a Connect<'a>,
    /// Where HTTP/2 is spoken by prior knowledge.
    pub connect_h2: &'a Connect<'a>,
}

impl Table<'_> {
    /// Plays a case; then somebody else asks, who must get an own answer.
    pub fn play(&self, case: &Case) -> io::Result<Outcome> {
        self.recorder.take();
        let connect = if matches!(case.sent, Sent::H2(_)) { self.connect_h2 } else { self.connect };
        let answers = client::play(case, connect)?;
        std::thread::sleep(SETTLE);
        let seen = self.recorder.take();
        let bystander = client::bystander(self.connect);
        let seen_then = self.recorder.take();
        Ok(judge::judge(case, answers, seen, bystander, seen_then))
    }
}
