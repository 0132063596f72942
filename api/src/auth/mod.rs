//! Who may do what: each route declares its permission as data, and one gate decides.
//!
//! People log in with a password and hold a *session*; programs hold an *API token*. Both are
//! bearer tokens, read from the store at each request, so that what was ended is refused from then
//! on. No cookie is set or read: another site cannot make a browser send what it does not know.
//! (A04)

pub mod account;
mod caller;
pub mod credential;
mod gate;
mod password;
pub mod permission;
pub mod roles;
mod throttle;

pub use caller::{Caller, CallerCredential, ClientCertificate, Link, Peer};
pub use gate::{Admitted, Gate};
pub use password::{NotHashed, Passwords, random_password};
pub use permission::Permission;
