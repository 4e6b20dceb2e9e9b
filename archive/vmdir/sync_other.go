//go:build !unix

package vmdir

// Where directories cannot be synced at all, renames are as durable as the system makes them.
func unsyncable(error) bool { return true }
