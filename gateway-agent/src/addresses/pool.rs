//! The addresses that Gateways are given: `--address-pool`, and `addressPool` of SluiceConfigs.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use super::why_unusable;

/// A run of addresses of one family, as an operator wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    v6: bool,
    /// Both included, as numbers.
    first: u128,
    last: u128,
    text: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    #[error(
        "is neither a CIDR (198.51.100.0/28, 2001:db8::/64) nor a range (198.51.100.10-198.51.100.20) nor an address"
    )]
    Unreadable,
    #[error("has a prefix of {0} bits; the longest is {1}")]
    Prefix(u8, u8),
    #[error("is the address of a host in a network; write {0} for the network, or a range")]
    HostBits(String),
    #[error("begins with an address of one IP version and ends with one of the other; write two pools")]
    Mixed,
    #[error("ends before it begins; write the lower address first")]
    Backwards,
    #[error("has more addresses than a link can have hosts: at most {0}; give the part of it that Gateways may have")]
    TooLarge(&'static str),
    #[error("has {0}, which {1}")]
    Unusable(IpAddr, &'static str),
    #[error("{0} and {1} overlap; leave out what is in both from one of them")]
    Overlap(Arc<str>, Arc<str>),
}

/// 65,536 addresses of IPv4, a /64 of IPv6.
const LARGEST: [u128; 2] = [1 << 16, 1 << 64];

impl Block {
    fn new(first: IpAddr, last: IpAddr, text: &str) -> Result<Block, PoolError> {
        let v6 = first.is_ipv6();
        if v6 != last.is_ipv6() {
            return Err(PoolError::Mixed);
        }
        let block = Block { v6, first: number(first), last: number(last), text: text.into() };
        if block.last < block.first {
            return Err(PoolError::Backwards);
        }
        if block.last - block.first >= LARGEST[usize::from(v6)] {
            return Err(PoolError::TooLarge(if v6 { "a /64" } else { "65,536 addresses, a /16" }));
        }
        match [first, last].into_iter().find_map(|address| Some((address, why_unusable(&address)?))) {
            Some((address, why)) => Err(PoolError::Unusable(address, why)),
            None => Ok(block),
        }
    }

    /// The first address of a network stands for the network itself (RFC 1122 section 3.2.1.3) or its routers (RFC 4291 section 2.6.1),
    /// the last of an IPv4 network for all its hosts: whoever means them writes a range.
    fn of_network(network: IpAddr, prefix: u8, text: &str) -> Result<Block, PoolError> {
        let bits = if network.is_ipv6() { 128 } else { 32 };
        if prefix > bits {
            return Err(PoolError::Prefix(prefix, bits));
        }
        let first = number(network);
        // A shift by all of the bits is none at all.
        let hosts = u128::MAX.checked_shr(128 - u32::from(bits - prefix)).unwrap_or_default();
        if first & hosts != 0 {
            return Err(PoolError::HostBits(format!("{}/{prefix}", address(first & !hosts, network.is_ipv6()))));
        }
        let v6 = network.is_ipv6();
        let (skipped, skipped_at_end) = match bits - prefix {
            0 | 1 => (0, 0),
            _ => (1, u128::from(!v6)),
        };
        // All of it is looked at: what is skipped is no excuse.
        Block::new(network, address(first | hosts, v6), text)?;
        Ok(Block { v6, first: first + skipped, last: (first | hosts) - skipped_at_end, text: text.into() })
    }

    fn has(&self, address: IpAddr) -> bool {
        address.is_ipv6() == self.v6 && (self.first..=self.last).contains(&number(address))
    }
}

impl FromStr for Block {
    type Err = PoolError;

    fn from_str(text: &str) -> Result<Block, PoolError> {
        let parse = |text: &str| text.trim().parse::<IpAddr>().map_err(|_| PoolError::Unreadable);
        if let Some((network, prefix)) = text.split_once('/') {
            let prefix = prefix.trim().parse().map_err(|_| PoolError::Unreadable)?;
            return Block::of_network(parse(network)?, prefix, text);
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Block::new(parse(first)?, parse(last)?, text)
    }
}

/// All blocks; none overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// In the order in which they are used up.
    blocks: Vec<Block>,
}

impl Pool {
    pub fn new(blocks: Vec<Block>) -> Result<Pool, PoolError> {
        for (i, a) in blocks.iter().enumerate() {
            let overlaps = |b: &&Block| a.v6 == b.v6 && a.first <= b.last && b.first <= a.last;
            if let Some(b) = blocks[..i].iter().find(overlaps) {
                return Err(PoolError::Overlap(b.text.clone(), a.text.clone()));
            }
        }
        Ok(Pool { blocks })
    }

    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    pub fn has(&self, address: IpAddr) -> bool {
        self.blocks.iter().any(|block| block.has(address))
    }

    pub fn has_family(&self, v6: bool) -> bool {
        self.blocks.iter().any(|block| block.v6 == v6)
    }

    /// All of one family; made as they are asked for, since there may be very many.
    pub fn addresses(&self, v6: bool) -> impl Iterator<Item = IpAddr> {
        let blocks = self.blocks.iter().filter(move |block| block.v6 == v6);
        blocks.flat_map(move |block| (block.first..=block.last).map(move |number| address(number, v6)))
    }

    /// The blocks of one family, as they were written.
    pub fn describe(&self, v6: bool) -> String {
        let texts: Vec<&str> = self.blocks.iter().filter(|block| block.v6 == v6).map(|block| &*block.text).collect();
        texts.join(", ")
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<&str> = self.blocks.iter().map(|block| &*block.text).collect();
        f.write_str(&texts.join(", "))
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

fn address(number: u128, v6: bool) -> IpAddr {
    if v6 { Ipv6Addr::from(number).into() } else { Ipv4Addr::from(number as u32).into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(texts: &[&str]) -> Result<Pool, PoolError> {
        Pool::new(texts.iter().map(|text| text.parse()).collect::<Result<_, _>>()?)
    }

    fn all(text: &str, v6: bool) -> Vec<String> {
        pool(&[text]).unwrap().addresses(v6).take(20).map(|address| address.to_string()).collect()
    }

    #[test]
    fn what_a_network_needs_for_itself_is_left_out() {
        assert_eq!(all("198.18.0.0/29", false), ["1", "2", "3", "4", "5", "6"].map(|host| format!("198.18.0.{host}")));
        assert_eq!(all("2001:db8::/126", true), ["2001:db8::1", "2001:db8::2", "2001:db8::3"]);
        assert_eq!(all("198.18.0.0/31", false), ["198.18.0.0", "198.18.0.1"]);
        assert_eq!(all("2001:db8::/127", true), ["2001:db8::", "2001:db8::1"]);
        assert_eq!(all("198.18.0.9/32", false), ["198.18.0.9"]);
        assert_eq!(all("2001:db8::9/128", true), ["2001:db8::9"]);
    }

    #[test]
    fn a_range_has_both_its_ends() {
        assert_eq!(
            all("198.18.0.254 - 198.18.1.1", false),
            ["198.18.0.254", "198.18.0.255", "198.18.1.0", "198.18.1.1"]
        );
        assert_eq!(all("2001:db8::f-2001:db8::10", true), ["2001:db8::f", "2001:db8::10"]);
        assert_eq!(all("198.18.0.7", false), ["198.18.0.7"]);
        assert!(pool(&["198.18.0.7"]).unwrap().addresses(true).next().is_none());
    }

    #[test]
    fn the_largest_blocks_are_taken_and_no_larger() {
        assert_eq!(pool(&["198.18.0.0/16"]).unwrap().addresses(false).count(), (1 << 16) - 2);
        assert!(pool(&["2001:db8::/64"]).is_ok());
        for text in ["198.18.0.0/15", "0.0.0.0/0", "::/0", "2001:db8::/63", "198.18.0.0-198.19.0.0"] {
            assert!(matches!(pool(&[text]), Err(PoolError::TooLarge(_))), "{text}: {:?}", pool(&[text]));
        }
    }

    #[test]
    fn nonsense_is_told_apart() {
        use PoolError::*;
        let unreadable = ["", "web", "198.18.0.0/", "198.18.0.0/x", "198.18.0/24", "198.18.0.1-", "198.18.0.1..2"];
        for text in unreadable {
            assert_eq!(pool(&[text]), Err(Unreadable), "{text}");
        }
        assert_eq!(pool(&["198.18.0.0/33"]), Err(Prefix(33, 32)));
        assert_eq!(pool(&["2001:db8::/129"]), Err(Prefix(129, 128)));
        assert_eq!(pool(&["198.18.0.5/28"]), Err(HostBits("198.18.0.0/28".into())));
        assert_eq!(pool(&["198.18.0.5-2001:db8::1"]), Err(Mixed));
        assert_eq!(pool(&["198.18.0.5-198.18.0.4"]), Err(Backwards));
        for text in ["127.0.0.0/24", "0.0.0.0/24", "223.255.255.0-224.0.0.1", "ff02::/64", "fe80::/64", "::/96"] {
            assert!(matches!(pool(&[text]), Err(Unusable(..))), "{text}: {:?}", pool(&[text]));
        }
    }

    #[test]
    fn blocks_that_overlap_are_refused_by_name() {
        let error = pool(&["198.18.0.0/28", "2001:db8::/64", "198.18.0.14-198.18.0.20"]).unwrap_err();
        let text = "198.18.0.0/28 and 198.18.0.14-198.18.0.20 overlap; leave out what is in both from one of them";
        assert_eq!(error.to_string(), text);
        // The last of a network is not in the pool.
        assert!(pool(&["198.18.0.0/28", "198.18.0.15-198.18.0.20"]).is_ok());
    }
}
