//! Support library of the black-box tests.
