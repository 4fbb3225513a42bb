//! Towards backends: pick → pool → connect → send.

pub mod balance;
pub mod connect;
pub mod pool;
pub mod send;

#[cfg(test)]
mod tests;
