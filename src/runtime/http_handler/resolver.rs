//! Resolves the name of a service, and gives out only addresses that requests may go to.
//!
//! The client connects to what this answers and asks nobody else, so a name that answers differently the next time can
//! not slip between the check and the connection.

use std::io;
use std::net::{IpAddr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::domain::address::is_forbidden;

/// A name leads to an address that no request may go to, and to no other.
#[derive(Debug, thiserror::Error)]
#[error("{0} is link-local or a metadata service; no request may go there")]
pub(super) struct ForbiddenAddress(pub(super) IpAddr);

/// The system's resolver with the check behind it.
pub(super) struct Resolver;

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let addresses = allowed_addresses(name.as_str()).await?;
            // The client fills in the port of the address.
            let addresses: Addrs = Box::new(addresses.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok(addresses)
        })
    }
}

/// The addresses of a name that requests may go to.
pub(super) async fn allowed_addresses(
    name: &str,
) -> Result<Vec<IpAddr>, Box<dyn std::error::Error + Send + Sync + 'static>> {
    let found: Vec<IpAddr> = tokio::net::lookup_host((name, 0))
        .await?
        .map(|address| address.ip())
        .collect();
    allowed(&found)
}

fn allowed(found: &[IpAddr]) -> Result<Vec<IpAddr>, Box<dyn std::error::Error + Send + Sync + 'static>> {
    let (refused, allowed): (Vec<IpAddr>, Vec<IpAddr>) = found.iter().partition(|address| is_forbidden(**address));
    match (allowed.is_empty(), refused.first()) {
        (false, _) => Ok(allowed),
        (true, Some(address)) => Err(ForbiddenAddress(*address).into()),
        (true, None) => Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forbidden_addresses_of_a_name_are_left_out_and_one_with_no_other_is_refused() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let mixed = [address("169.254.169.254"), address("10.0.0.1"), address("fe80::1")];

        assert_eq!(allowed(&mixed).unwrap(), [address("10.0.0.1")]);
        let refused = allowed(&[address("::ffff:169.254.169.254")]).unwrap_err();
        assert!(refused.downcast_ref::<ForbiddenAddress>().is_some());
        assert!(allowed(&[]).unwrap_err().downcast_ref::<ForbiddenAddress>().is_none());
    }
}
