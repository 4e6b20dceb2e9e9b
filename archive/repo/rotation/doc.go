// Package rotation decides which entries of a repository stay, which go, and of which kind the next one is. It knows
// of an entry what [Item] says, reads no clock, opens nothing and changes nothing: it returns what somebody else does.
//
//	f, err := rotation.NewForest(items)
//	p, err := rotation.Parse("full=monthly,differential=weekly,replace,keep-weekly=5,keep-monthly=12")
//	next, err := p.Next(f, 41, now)                      // differential of #30: none this week
//	verdicts := p.After(f, now)                          // #12: weekly 2026-W47; #13: goes
//	plan, err := f.Remove(rotation.Forgotten(verdicts))  // remove #13; #11 stays, needed by #12
//
// # Rules
//
// [Rules] say what is kept, each by itself; what no rule wants is forgotten. Without any rule everything is kept.
//
//   - Rules count by group: the project, and the machine where items name one.
//   - keep-last=N keeps the N newest.
//   - keep-hourly, -daily, -weekly, -monthly and -yearly=N keep the last entry of each of the N newest periods that have
//     one; periods without entries do not count, so that a machine that was off for six weeks loses nothing. Weeks are
//     those of ISO 8601, from Monday. Periods begin where they do in the time zone of the time that the caller gives.
//     The hour that is there twice when clocks are set back is two hours.
//   - N may be "all", or -1. While fewer periods have entries than N, the oldest entry stays, too: it will be the first
//     of its period when the others have come.
//   - keep-within=SPAN keeps everything of that time, keep-within-daily=SPAN and its like the last of each period of it.
//     Spans are counted back from the newest entry, not from now, again for the machine that was off; a moment
//     exactly that long ago is within. They are written 1y6m2w3d12h; m is a month. A month before March 31 is the last
//     of February, not the 3rd of March.
//   - keep-label=KEY keeps what has such a label, keep-label=KEY=VALUE what has it with that value.
//   - The newest entry of a group by time, and that with the highest number, are always kept. They are different ones
//     when a clock was set back, or an old entry has been imported.
//   - Entries from the future are kept, and count for no rule: either their clock was wrong, or the one of now is.
//   - Entries that cannot be built are kept, and count for no rule, lest they displace good ones.
//
// Entries are ordered by time, those of one time by number.
//
// # Chains
//
// An entry builds on its parent, or on a twin of that (an entry of the same state). What is not kept but needed by
// one that is stays ([Forest.Remove]), or those that need it are made to build on something else first
// ([Forest.Reparent]). A [Plan] that is stopped anywhere has left no entry that cannot be built and could be before.
//
// # Policies
//
// A [Policy] is the rules, and of which kind new entries are. It is a text of items with commas between them, as a flag
// has it (a comma or backslash in a label is written behind a backslash), or a table of TOML with underscores in its
// keys; hyphens and underscores are the same in the text:
//
//	full=monthly,differential=weekly,incremental=daily,replace,keep-weekly=5,keep-monthly=12,keep-label=release
//
//	full          = "monthly"
//	differential  = "weekly"
//	incremental   = "daily"
//	replace       = true
//	replace_after = "7d"
//	keep_weekly   = 5
//	keep_monthly  = 12
//	keep_label    = ["release"]
//
// full, differential and incremental say how often: hourly, daily, weekly, monthly, yearly, "every 8 entries" (not
// incremental), always or never. Nothing said is full=never,differential=never,incremental=always: whatever can be is
// an increment.
//
// A full entry is due when the full one of the chain is of another month (where full=monthly) than now, or, with
// "every 8 entries", when 8 are there that begin with it, branches included. A differential one is due when
// the last that is not an increment on the way to where the machine is is of another week, or 8 entries come from it on.
// All else is incremental. From an entry on which others build already, the next is always an increment, unless
// those are never wanted: it is a branch, and to be beside its sisters is its point. incremental=daily does not refuse
// a second one on a day; it is not [Next.Due], which is for those who ask every hour.
//
// replace lets increments go when a later differential of their tree, or a later full of their group, is there, and
// they are older than replace-after (7d when nothing is said; replace=14d says both); until then it keeps them. After
// that only the keep rules can, and where there are none they go, while all others stay. Branches are increments like
// others: label what should stay.
//
// In a policy, a rule takes of each period the entry that is meant for it: with full=monthly, keep-monthly and
// keep-yearly take the last full one of the month or year; with differential=weekly, keep-weekly takes the last that
// is no increment. The last entry of a week would be an increment that needs all those before it. Where a period has
// no such entry it is the last, as in rules alone.
package rotation
