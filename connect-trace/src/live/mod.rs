//! The model of what the live page and `connect-trace top` show: the last quarter of an hour, what it means, and the lists,
//! shares and units of what is drawn. Page and `top` only draw.

pub(crate) mod history;
// The page has no rows that join both.
#[cfg(feature = "top")]
pub(crate) mod route;
pub(crate) mod stage;
pub(crate) mod verdict;
pub(crate) mod view;
