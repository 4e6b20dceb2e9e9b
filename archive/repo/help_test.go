package repo_test

import "tarvm/archive"

func packNote(s string) archive.PackOptions { return archive.PackOptions{Note: s} }
