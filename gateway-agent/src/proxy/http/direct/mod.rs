//! HTTP/1.1 without hyper, for what most requests are: on the side of clients a request whose body, if it has one, has a length, and that asks
//! for nothing unusual; on the side of backends the same. It is here for what it costs: heads are written behind one another into one buffer,
//! bodies stay in the buffer that they were read into, and no message changes tasks.
//!
//! It stands where hyper stands: behind the [`Guard`](super::guard), which reads the framing first and keeps the times, and before
//! `server::respond`, which is the same for both. What is unusual goes to hyper, and the connection with it.

mod answer;
mod exchange;
pub mod head;
mod out;
mod scratch;
mod server;
mod wire;

pub use exchange::{Direct, Exchange, Failed, takes};
pub use out::SMALL;
pub use scratch::Scratch;
pub use server::serve;
pub use wire::Received;
