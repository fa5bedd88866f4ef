/** What a store needs of a pool of connections. `pg.Pool` fits, and what has its shape. */
export interface PostgresPool {
  connect(): Promise<PostgresPoolClient>;
}

/** A connection taken out of a {@link PostgresPool}. */
export interface PostgresPoolClient {
  query(text: string, values: unknown[]): Promise<PostgresResult>;
  /** Gives the connection back; with true, it is closed instead of used again. */
  release(destroy?: boolean): void;
  on?(event: "error", listener: (error: Error) => void): unknown;
  off?(event: "error", listener: (error: Error) => void): unknown;
}

/** What a statement gives. */
export interface PostgresResult {
  readonly command: string;
  readonly rowCount: number | null;
  readonly rows: unknown[];
}
