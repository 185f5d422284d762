//! Need root: BPF programs are loaded into the running kernel, and network namespaces are made.

mod attach;
mod capability;
mod classify;
mod corpus;
mod decide;
mod fastpath;
mod link;
mod local;
mod occupied;
mod owner;
mod packets;
mod receiver;
mod shed;
mod table;
mod test_run;
