//! HTTP for metrics and health, and the local socket of the command line.
