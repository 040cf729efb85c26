//! Routes of connections.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::connect::Connect;

/// Source and destination of connections. Each route has its own ports.
#[derive(Deserialize, Serialize, Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Route {
    /// Inode number of the network namespace.
    pub netns: Option<u32>,
    /// Source address.
    pub source: IpAddr,
    /// Destination.
    pub destination: SocketAddr,
}

impl Route {
    /// Returns the route of a connect(), if its addresses are known.
    #[must_use]
    pub fn of(connect: &Connect) -> Option<Self> {
        Some(Self {
            netns: connect.netns,
            source: connect.source?,
            destination: connect.destination?,
        })
    }

    /// Returns whether [`Route::of`] a connect() is this route.
    #[must_use]
    pub fn is_of(&self, connect: &Connect) -> bool {
        connect.destination == Some(self.destination)
            && connect.source == Some(self.source)
            && connect.netns == self.netns
    }
}
