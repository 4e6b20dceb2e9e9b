// Package ovf reads what an OVF package says of its files: the list of References in an envelope, and the digests in
// a manifest (.mf) beside it, which it also writes and verifies.
//
// Sources: DMTF DSP0243, Open Virtualization Format Specification, 1.1.1 (sections 5.1, 5.2, 7.1) and 2.1.1. Envelopes of
// versions 0.9 to 2.1 are told apart by nothing but their namespaces; the elements that are read here are the same.
//
// Not read yet: hardware, networks, properties, and the certificate (.cert).
//
// # Security
//
// Envelopes and manifests are untrusted. Their size is limited, entities are not expanded, and names that lead out of the
// package's folder are refused.
package ovf
