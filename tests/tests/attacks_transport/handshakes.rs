//! X05 and X06: handshakes that never end, and addresses that nobody has shown to be theirs.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use rat_transport::limits;
use rat_transport::measures;
use rat_transport::quic::client::ClientError;

use super::certificates::SERVER_NAME;
use super::world::{World, eventually, metric, rejections};

/// What fits into a packet before anything is known of the path (RFC 9000, 14.1).
const SMALLEST_PACKET_MAX: usize = 1200;

/// Somebody who sends first packets and nothing after them.
struct Stalled(UdpSocket);

impl Stalled {
    /// Sends the first packet of a connection, with a length that a server answers at once.
    async fn begin(world: &World) -> (Self, usize) {
        Self::begin_at("127.0.0.1", world).await
    }

    /// The same from this address.
    async fn begin_at(address: &str, world: &World) -> (Self, usize) {
        let first = first_packets(world).await;
        let socket = UdpSocket::bind((address, 0)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        for packet in &first {
            socket.send_to(packet, world.address).unwrap();
        }
        (Self(socket), first.iter().map(Vec::len).sum())
    }

    /// The server's next packet.
    fn packet(&self) -> Vec<u8> {
        let mut packet = vec![0; 2000];
        let (length, from) = self.0.recv_from(&mut packet).unwrap();
        assert!(from.port() != 0);
        packet.truncate(length);
        packet
    }
}

/// Somebody who shows that it receives at its address, and then says nothing more.
struct Silent(tokio::task::JoinHandle<()>);

impl Silent {
    /// A client behind this address that hears of the server's packets no more than a Retry.
    async fn begin(address: &str, world: &World) -> Self {
        let identity = world.authority.agent("silent");
        let (endpoint, config) = world.raw_config(Some(identity), |_, _| {});
        let inside = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let outside = tokio::net::UdpSocket::bind((address, 0)).await.unwrap();
        outside.connect(world.address).await.unwrap();
        let connecting = endpoint
            .connect_with(config, inside.local_addr().unwrap(), SERVER_NAME)
            .unwrap();
        let client = endpoint.local_addr().unwrap();
        Self(tokio::spawn(async move {
            let _connecting = connecting;
            let (mut sent, mut answer) = ([0; 2000], [0; 2000]);
            loop {
                tokio::select! {
                    Ok((length, _)) = inside.recv_from(&mut sent) => {
                        let _ = outside.send(&sent[..length]).await;
                    }
                    Ok(length) = outside.recv(&mut answer) => {
                        // RFC 9000, 17.2.5: a long header of type 3.
                        if answer[0] & 0xf0 == 0xf0 {
                            let _ = inside.send_to(&answer[..length], client).await;
                        }
                    }
                }
            }
        }))
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a client sends before it has heard anything: recorded by a server that does not answer.
async fn first_packets(world: &World) -> Vec<Vec<u8>> {
    let mute = UdpSocket::bind("127.0.0.1:0").unwrap();
    mute.set_nonblocking(true).unwrap();
    let address: SocketAddr = mute.local_addr().unwrap();
    let identity = world.authority.agent("stalls");
    let (endpoint, config) = world.raw_config(Some(identity), |_, _| {});
    let connecting = endpoint.connect_with(config, address, SERVER_NAME).unwrap();
    let mut packets = Vec::new();
    eventually("a first packet", || {
        let mut packet = vec![0; 2000];
        while let Ok((length, _)) = mute.recv_from(&mut packet) {
            packets.push(packet[..length].to_vec());
        }
        !packets.is_empty()
    })
    .await;
    drop(connecting);
    packets
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x05_handshakes_that_never_end_hold_nobody_up_and_time_out() {
    let world = World::limited(|limits| limits.handshake_ms_max = 1000);
    let mut stalled = Vec::new();
    for _ in 0..5 {
        stalled.push(Stalled::begin(&world).await);
    }
    eventually("taken up", || metric(measures::CONNECTIONS, None) >= 5.0).await;
    world.serves_others().await;
    let timed_out = || metric(measures::HANDSHAKES, Some(("result", "timeout"))) == 5.0;
    eventually("given up", timed_out).await;
    assert_eq!(rejections("HANDSHAKE_MS_MAX"), 5.0);
    world.serves_others().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x05_open_handshakes_have_a_cap() {
    let world = World::limited(|limits| {
        limits.handshakes_max = 1;
        limits.handshakes_unvalidated_max = 100;
        limits.handshake_ms_max = 2000;
    });
    let _stalled = Stalled::begin(&world).await;
    eventually("taken up", || metric(measures::CONNECTIONS, None) == 1.0).await;
    let client = world.client("unlucky");
    let error = client
        .connect(world.address, SERVER_NAME)
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::Full), "{error:?}");
    assert_eq!(rejections("HANDSHAKES_MAX"), 1.0);
    eventually("given up", || metric(measures::CONNECTIONS, None) == 0.0).await;
    world.serves_others().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x05_silent_handshakes_of_one_network_leave_room_for_another() {
    let world = World::limited(|limits| {
        limits.handshakes_max = 4;
        limits.handshakes_per_address_max = 3;
        limits.handshake_ms_max = 600_000;
    });
    let mut silent = Vec::new();
    for _ in 0..6 {
        silent.push(Silent::begin("127.0.0.2", &world).await);
    }
    let refused = || rejections("HANDSHAKES_PER_ADDRESS_MAX");
    eventually("the others are refused", || refused() >= 3.0).await;
    assert_eq!(metric(measures::CONNECTIONS, None), 3.0);
    assert_eq!(rejections("HANDSHAKES_MAX"), 0.0);
    for _ in 0..3 {
        world.serves_others().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x05_a_handshake_that_is_over_no_longer_counts_against_its_network() {
    let world = World::limited(|limits| limits.handshakes_per_address_max = 1);
    // They stay connected: places of connections are other places.
    let _first = world.agent("first").await;
    let _second = world.agent("second").await;
    let _third = world.agent("third").await;
    assert_eq!(rejections("HANDSHAKES_PER_ADDRESS_MAX"), 0.0);
    world.serves_others().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x06_forged_addresses_of_one_network_do_not_use_up_its_handshakes() {
    let world = World::limited(|limits| limits.handshake_ms_max = 600_000);
    let most = limits::HANDSHAKES_UNVALIDATED_PER_ADDRESS_MAX;
    assert!(most * 2 <= limits::HANDSHAKES_PER_ADDRESS_MAX);
    let mut stalled = Vec::new();
    for _ in 0..most {
        stalled.push(Stalled::begin_at("127.0.0.2", &world).await);
    }
    let open = || metric(measures::CONNECTIONS, None);
    eventually("taken up", || open() == most as f64).await;
    // Other networks have nothing to show.
    world.serves_others().await;
    assert_eq!(metric(measures::RETRIES, None), 0.0);
    let (further, _) = Stalled::begin_at("127.0.0.2", &world).await;
    assert_eq!(further.packet()[0] & 0xf0, 0xf0, "no Retry packet");
    assert!(metric(measures::RETRIES, None) >= 1.0);
    // Whoever does receive at that address is taken.
    let _receives = Silent::begin("127.0.0.2", &world).await;
    eventually("taken up", || open() == (most + 1) as f64).await;
    assert_eq!(rejections("HANDSHAKES_PER_ADDRESS_MAX"), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x06_with_many_handshakes_open_addresses_are_validated_first() {
    let world = World::limited(|limits| limits.handshakes_unvalidated_max = 1);
    let (_first, _) = Stalled::begin(&world).await;
    eventually("taken up", || metric(measures::CONNECTIONS, None) == 1.0).await;
    // One whose address may be forged gets a token for it, less than it sent, and no state.
    let (second, sent) = Stalled::begin(&world).await;
    let retry = second.packet();
    // RFC 9000, 17.2.5: a long header of type 3.
    assert_eq!(retry[0] & 0xf0, 0xf0, "no Retry packet");
    assert!(retry.len() < sent, "{} bytes for {sent}", retry.len());
    assert_eq!(metric(measures::CONNECTIONS, None), 1.0);
    assert_eq!(metric(measures::RETRIES, None), 1.0);
    // One that receives at its address is served.
    world.serves_others().await;
    assert!(metric(measures::RETRIES, None) >= 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x06_before_an_address_is_validated_three_times_its_bytes_and_no_further_packet_are_sent() {
    let world = World::limited(|limits| limits.handshake_ms_max = 2000);
    let (stalled, sent) = Stalled::begin(&world).await;
    eventually("taken up", || metric(measures::CONNECTIONS, None) == 1.0).await;
    eventually("given up", || metric(measures::CONNECTIONS, None) == 0.0).await;
    stalled.0.set_nonblocking(true).unwrap();
    let mut received = 0;
    let mut packet = [0; 2000];
    while let Ok((length, _)) = stalled.0.recv_from(&mut packet) {
        received += length;
    }
    // RFC 9000, 8.1 says three times; the QUIC library finishes the packet that passes it.
    let most = 3 * sent + SMALLEST_PACKET_MAX;
    assert!(received > 0 && received < most, "{received} for {sent}");
}
