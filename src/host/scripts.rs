//! The shell text around each script of a tool: how it begins, and the watchdog that ends a
//! command with all its children. POSIX sh with dash, bash and busybox in mind.

/// Starts each script, with the call's random word as `$1`. fd 3 is the pipe from mom;
/// `say WORD` prints a mark (`marks`).
pub(super) const PROLOGUE: &str = r#"
m=$1; exec 3<&0 </dev/null 2>&1
say() { printf '\036%s %s\n' "$m" "$1"; }
say '!'
"#;

/// The watchdog. It waits until fd 3 ends (mom has closed the pipe, or is dead). Then it kills
/// each process that has the call's mark in its environment, wherever it went (setsid, double
/// fork), each child of such a process (`su -` and `sudo` clear the environment and start a
/// session), and at last its own process group with the script. `kill -SIGNAL -PID` reaches a
/// whole group at once.
///
/// It first stops (SIGSTOP) what it finds, and kills only when a round finds nothing new: a
/// fork bomb at its limit of processes would refill what is killed at once, but stopped
/// processes keep their place. Some processes of a bomb live too short to be met; so with many
/// processes it waits for six such rounds.
///
/// It ends when three rounds in a row meet none; after ten when the environment of some process
/// could not be read, as in the middle of an exec, or when a process was made meanwhile (the
/// last word of /proc/loadavg is the newest id); and after 200 rounds without a new one, when
/// what is left hangs in the kernel or belongs to another user. Process ids are soon used again
/// under a bomb: so a process is known by id and start time, and is looked at right before the
/// signal.
///
/// It ignores SIGHUP, which the kernel sends to a group that has lost its parent while one of
/// its processes is stopped. It uses builtins only, because a fork may fail, and bash where
/// there is one, because dash reads byte by byte. A process that is older than the script is
/// none of its children: that passes over most processes of a busy host. It is not looked at
/// again, unless there is a bomb, which may soon have its id.
///
/// A process outlives this only if it has left its group and its parent and has cleared its
/// environment as well.
pub(crate) const WATCH: &str = r#"
b=sh; command -v bash >/dev/null && b=bash
(
    read -r _ <&3
    trap '' HUP TERM
    exec $b -c '
        mark=$1 group=$2 known=" $2: " older=" " still=0 calm=0 rounds=0
        read -r stat </proc/$2/stat
        set -- ${stat##*) }
        since=${20:-0}
        until [ $calm -gt 9 ] || [ $calm -gt 2 -a -z "$unsure" ] || [ $rounds = 200 ]; do
            old=STOP
            if [ $still -gt 5 ] || [ $still -gt 0 -a ${#known} -lt 400 ]; then old=KILL; fi
            [ ${#known} -lt 400 ] || older=" "
            met=" $group: " unsure= still=$((still + 1)) calm=$((calm + 1))
            read -r load </proc/loadavg
            made=${load##* }
            for dir in /proc/[0-9]*; do
                pid=${dir#/proc/} any= ours= signal=STOP
                case $older in *" $pid "*) continue ;; esac
                [ $pid != $$ ] && read -r stat <$dir/stat || continue
                # What follows the name: state, parent, .. and as the 20th the start time.
                set -- ${stat##*) }
                if [ ${20} -lt $since ]; then older="$older$pid "; continue; fi
                [ "$1" != Z ] || continue
                case $known in *" $pid:${20} "*) ours=1 signal=$old ;; esac
                case $known$met in *" $2:"*) ours=1 ;; esac
                while [ -z "$ours" ] && { read -r line || [ "$line" ]; }; do
                    any=1
                    case $line in *"MOM_CALL=$mark"*) ours=1 ;; esac
                done <$dir/environ
                [ "$any$ours" ] || [ ! -e $dir/exe ] || unsure=1
                [ "$ours" ] || continue
                kill -$signal -$pid
                kill -$signal $pid || continue
                case $known in *" $pid:${20} "*) ;; *) still=0 ;; esac
                met="$met$pid:${20} " calm=0
            done
            known=$met
            [ $still = 0 ] || rounds=$((rounds + 1))
            read -r load </proc/loadavg
            [ "$made" = "${load##* }" ] || unsure=1
        done
        kill -KILL -$group' mom "$m" $$
) >/dev/null 2>&1 &
leash=$!
"#;

/// Ends a script that has a watchdog. A watchdog at work ignores the signal: the script waits for
/// it and is killed by it. Another one dies of it, which mom does not wait for: the output ends
/// before.
pub(crate) const UNWATCH: &str = r#"
code=$?
kill $leash 2>/dev/null
say $code
exec >/dev/null 2>&1
wait $leash
"#;
