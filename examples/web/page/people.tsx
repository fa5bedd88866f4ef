import { useState } from "react";
import { Person } from "../../gen/playground/v1/playground_pb.ts";
import { playground } from "./session.ts";

const people = [
  { person: Person.ADA, name: "Ada", hint: "writes the first program" },
  { person: Person.GRACE, name: "Grace", hint: "compiles it" },
  { person: Person.EDSGER, name: "Edsger", hint: "proves it" },
] as const;

/** Where somebody signs in. A real app asks for a password or a passkey here. */
export function People() {
  const [problem, setProblem] = useState("");
  const signIn = async (person: Person) => {
    try {
      await playground.signIn({ person });
    } catch (error) {
      setProblem(String(error));
    }
  };
  return (
    <section className="card" aria-labelledby="people">
      <h2 id="people">Sign in as</h2>
      <ul className="people">
        {people.map(({ person, name, hint }) => (
          <li key={name}>
            <button type="button" className="person" onClick={() => void signIn(person)}>
              <span className="face" aria-hidden="true">
                {name[0]}
              </span>
              <span>
                <strong>{name}</strong>
                <small>{hint}</small>
              </span>
            </button>
          </li>
        ))}
      </ul>
      <p className="note" role="alert">
        {problem}
      </p>
    </section>
  );
}
