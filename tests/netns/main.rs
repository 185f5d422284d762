//! Black-box tests of the binary in network namespaces: root only, and the environment variable VL3LB_BIN
//! names the binary. Each module is one promise to users.

/// Defines one test per attachment: `on_attachments!(name: one = Attachment::ONE, ...)` calls the function
/// `name` with each.
macro_rules! on_attachments {
    ($test:ident: $($name:ident = $attachment:expr),+ $(,)?) => {
        mod $test {
            use vl3lb_tests::attachment::Attachment;
            $(
                #[test]
                fn $name() {
                    super::$test(&$attachment);
                }
            )+
        }
    };
}

mod affinity;
mod attachment;
mod bulk;
mod capability;
mod change;
mod cli;
mod compare;
mod connections;
mod dns;
mod events;
mod finance;
mod flood;
mod flows;
mod health;
mod http;
mod icmp;
mod idle;
mod iperf;
mod kernel;
mod lifecycle;
mod load;
mod queues;
mod refusal;
mod testbed;
mod tuples;
mod udp_segment;
mod wrong_input;
