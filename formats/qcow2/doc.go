// Package qcow2 recognises QCOW2 images, and their predecessor QCOW (version 1),
// which has the same magic.
//
// Source: QEMU, docs/interop/qcow2.rst; for version 1 block/qcow.c. Guest data
// lies in clusters that are aligned to the start of the file.
//
// Covered: versions 1, 2 and 3, any cluster size, subclusters, both compression
// types, external data files, encrypted images (whose data is ciphertext).
// Refused: unknown incompatible features.
//
// Security: the L1 table's place and length are checked, no table is read. The
// name of the backing file is untrusted and is returned as stored; the header
// of an image is writable by whoever may write the file, and a raw disk that
// starts with this magic was made by its guest: a recorded format wins over
// recognition.
package qcow2
