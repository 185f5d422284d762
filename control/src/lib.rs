//! The control side of vl3-lb.
