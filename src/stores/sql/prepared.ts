import {
  type Compilable,
  type CompiledQuery,
  type RawBuilder,
  RawNode,
  sql,
  ValueNode,
} from "kysely";
import type { SqlDatabase } from "./schema.ts";

/** Runs a statement in one of its forms with values of its own; the rows that it gives. */
export type Prepared<Form extends string, Values extends object, Row> = (
  database: SqlDatabase,
  form: Form,
  values: Values,
) => Promise<readonly Row[]>;

/**
 * A statement whose text is made once for each form and clock of a database: to make it costs more
 * than to send it.
 *
 * @param build makes a form. What it reads of `values` are placeholders, good for one thing alone: to
 *   be bound. Whatever depends on a value is decided by the form, or by the database.
 */
export function prepared<Form extends string, Values extends object, Row>(
  build: (database: SqlDatabase, form: Form, values: Values) => Compilable<Row>,
): Prepared<Form, Values, Row> {
  // By the clock, as a transaction is a database of its own, with the same clock. The text depends
  // on nothing else of the database but its dialect, in which the clock is written.
  const made = new WeakMap<SqlDatabase["now"], Map<Form, Statement<Row>>>();
  const make = (database: SqlDatabase, form: Form): Statement<Row> => {
    const late = { ...database, now: () => lateTime(time) };
    const time = database.now();
    const query = build(late, form, placeholders<Values>()).compile();
    return { query, bindsTime: query.parameters.some((value) => value instanceof TimeValue) };
  };
  return async (database, form, values) => {
    const forms = made.get(database.now) ?? new Map<Form, Statement<Row>>();
    made.set(database.now, forms);
    const statement = forms.get(form) ?? make(database, form);
    forms.set(form, statement);
    const { query, bindsTime } = statement;
    const times = bindsTime ? timeValues(database.now()) : [];
    const parameters = query.parameters.map((value) => bound(value, values, times));
    return (await database.db.executeQuery<Row>({ ...query, parameters })).rows;
  };
}

interface Statement<Row> {
  readonly query: CompiledQuery<Row>;
  /** Whether the clock is the process's, so that its time is bound to each run. */
  readonly bindsTime: boolean;
}

/** Stands for a value of a statement, by its name. */
class Value {
  readonly name: string;

  constructor(name: string) {
    this.name = name;
  }
}

/** Stands for a value within the SQL of the clock, by its place there. */
class TimeValue {
  readonly place: number;

  constructor(place: number) {
    this.place = place;
  }
}

function placeholders<Values extends object>(): Values {
  return new Proxy({} as Values, { get: (_, name) => new Value(String(name)) });
}

function bound(value: unknown, values: object, times: readonly unknown[]): unknown {
  if (value instanceof Value) {
    return (values as Record<string, unknown>)[value.name];
  }
  return value instanceof TimeValue ? times[value.place] : value;
}

/** The SQL of a clock with placeholders for what is bound in it. */
function lateTime(time: RawBuilder<number>): RawBuilder<number> {
  const { sqlFragments, parameters } = rawNodeOf(time);
  const values = parameters.map((_, place) => new TimeValue(place));
  return sql(sqlFragments as unknown as TemplateStringsArray, ...values);
}

function timeValues(time: RawBuilder<number>): readonly unknown[] {
  return rawNodeOf(time).parameters.map((node) => (ValueNode.is(node) ? node.value : undefined));
}

function rawNodeOf(time: RawBuilder<number>): RawNode {
  const node = time.toOperationNode();
  if (!RawNode.is(node)) {
    throw new TypeError("the clock of a SQL store must be plain SQL");
  }
  return node;
}
