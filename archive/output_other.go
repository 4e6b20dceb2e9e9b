//go:build !unix

package archive

// unsyncable: where directories cannot be synced at all, renames are as durable as the system makes them.
func unsyncable(error) bool { return true }
