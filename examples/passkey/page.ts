// The script of the page. A call that needs a passkey waits for it, and is then sent again.
import { ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import { startAuthentication, startRegistration } from "@simplewebauthn/browser";
import { createSessionClient } from "rpc-session/client";
import { BankService, PasskeyService } from "../gen/bank/v1/bank_pb.ts";

const session = createSessionClient({
  transport: (parts) => createConnectTransport({ baseUrl: location.origin, ...parts }),
  // Called when a call is refused with STEP_UP. false: the call fails with its refusal.
  onStepUp: async () => {
    const { optionsJson } = await passkeys.startStepUp({});
    const credential = await startAuthentication({ optionsJSON: JSON.parse(optionsJson) });
    await passkeys.finishStepUp({ credentialJson: JSON.stringify(credential) });
    return true;
  },
});
const bank = createClient(BankService, session.transport);
const passkeys = createClient(PasskeyService, session.transport);

async function addPasskey(): Promise<string> {
  const { optionsJson } = await passkeys.startRegistration({});
  const credential = await startRegistration({ optionsJSON: JSON.parse(optionsJson) });
  await passkeys.finishRegistration({ credentialJson: JSON.stringify(credential) });
  return "Your passkey was added.";
}

async function transfer(): Promise<string> {
  const { balance } = await bank.transfer({ amount: 100 });
  return `Sent. You have ${balance}.`;
}

async function show(work: () => Promise<string>): Promise<void> {
  const line = document.querySelector("#line");
  const text = await work().catch((error: unknown) => ConnectError.from(error).rawMessage);
  line?.replaceChildren(text);
}

async function greet(): Promise<string> {
  const { balance } = await bank.getBalance({});
  return `You have ${balance}.`;
}

document.querySelector("#sign-in")?.addEventListener("submit", (event) => {
  event.preventDefault();
  const form = new FormData(event.target as HTMLFormElement);
  const field = (name: string): string => (form.get(name) ?? "") as string;
  void show(async () => {
    await bank.signIn({ user: field("user"), password: field("password") });
    return greet();
  });
});
document.querySelector("#add")?.addEventListener("click", () => void show(addPasskey));
document.querySelector("#transfer")?.addEventListener("click", () => void show(transfer));
void show(greet);
