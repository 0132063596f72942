//! How evidence arrives other than over HTTP: the QUIC protocol, server and client.
