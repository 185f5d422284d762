use super::*;
use crate::port::Port;

#[test]
fn a_long_packet_arrives_in_frames_that_continue_each_other() {
    let mut port = MemPort::new(4);
    let bytes: Vec<u8> = (0..=255).cycle().take(2 * CHUNK + 1).collect();
    assert!(port.push_packet(&bytes));
    assert!(!port.push_packet(&bytes), "one frame left, three needed");
    let mut packets = Vec::new();
    assert_eq!(port.receive(&mut packets, 1), 3);
    assert_eq!(port.frames_in_hand(), 3);
    port.transmit(&mut packets);
    assert_eq!(port.take_transmitted(), [bytes]);
    assert_eq!(
        (port.free_frames(), port.frames_in_hand(), port.lost()),
        (4, 0, 0)
    );
}

#[test]
fn transmit_takes_whole_packets_only() {
    let mut port = MemPort::new(0);
    port.set_transmit_room(2);
    let mut packets = vec![frame(b"one")];
    packets.extend(frames_of(b"two", 2));
    port.transmit(&mut packets);
    assert_eq!(packets.len(), 2);
    assert_eq!(port.take_transmitted(), [b"one"]);
}

#[test]
fn a_dropped_frame_is_a_lost_one() {
    let mut port = MemPort::new(1);
    drop(port.allocate());
    assert_eq!(port.lost(), 1);
    assert!(port.allocate().is_none());
}
