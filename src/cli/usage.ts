/** Arguments that make no sense; the message says what is wrong with them. */
export class UsageError extends Error {
  override readonly name: string = "UsageError";
}

export const usage: string = `Usage: rpc-session migrate <database>
       rpc-session migrate --print <database | postgres | sqlite>

Brings the tables of a session store up to date. Servers do that themselves when they start; run it
before where they may not create tables. It may be run again, and by several at once.

  <database>   postgres://user@host/name (a password in PGPASSWORD is seen by nobody else),
               or the path of a SQLite file, which is created when it is absent
  --print      print the SQL that makes the tables in an empty database, and change nothing
  -h, --help   print this

Exit code: 0 done, 1 failed, 2 wrong arguments.
`;
