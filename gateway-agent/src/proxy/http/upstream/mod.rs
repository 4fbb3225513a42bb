//! Towards backends: pick → pool → connect → send.

pub mod balance;
pub mod connect;
pub mod pool;
pub mod send;
pub mod tls;

#[cfg(test)]
mod tests;
