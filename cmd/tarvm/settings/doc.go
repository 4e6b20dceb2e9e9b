// Package settings reads and changes the file in which users keep what they would otherwise repeat on every command
// line: where their repositories and working areas are, and which of them is meant when none is named.
//
// # The file
//
// It is TOML 1.0, at [Path]:
//
//	repository = "home"        # what is meant when a command names none
//	area = "work"
//	project = "thesis"
//	policy = "office"
//	trust_times = true         # a file whose size and times are as they were is not read
//
//	[repositories]
//	home = "~/vm-entries"
//
//	[areas.work]
//	dir = "/vm/work"
//	project = "thesis"         # optional: this area's own
//	repository = "home"
//
//	[policies.office]          # what a policy says is not looked at here
//	daily = 7
//
//	[catalogues]
//	cernvm = "https://example.org/images.json"
//
// Directories are absolute or begin with ~/, the user's home; nothing else is expanded. A key that is not known is an
// error, so that a misspelled one is noticed. No file at all is the same as an empty one.
//
// # Changes
//
// Users edit the file, too: a change touches only the lines that it is about. The result is decoded before it is
// written, and must differ by just that change; text for which that fails, such as areas within one inline table, is
// written anew, and the former text is kept beside it. The file appears under its name when it is complete, with the
// permissions that it had. A file that is a symbolic link stays one. Several processes may change it at a time: each
// change is made on what is there when it is saved.
package settings
