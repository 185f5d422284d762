//! The one shape that every view of the balancer is made of.
