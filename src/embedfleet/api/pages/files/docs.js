// The API of this service, shown by Swagger UI from the document that the service gives of itself.

import { ask, authorized, by, useKey } from "/assets/asking.js";
import { say, translate } from "/assets/words.js";

const scheme = matchMedia("(prefers-color-scheme: dark)");
const adapt = () => document.documentElement.classList.toggle("dark-mode", scheme.matches);
scheme.addEventListener("change", adapt);
adapt();

// Its title, its servers and its dialog for keys are this page's own.
const nothing = () => null;
const surroundings = () => ({
  components: { InfoContainer: nothing, ServersContainer: nothing, AuthorizeBtnContainer: nothing, authorizeOperationBtn: nothing },
});

// Names for controls that Swagger UI leaves without one, and the keyboard for what scrolls.
const named = () => {
  for (const control of by("api").querySelectorAll("textarea:not([aria-label]), select:not([aria-label])")) {
    const parameter = control.closest("tr[data-param-name]")?.dataset.paramName;
    control.setAttribute("aria-label", parameter ?? (control.closest(".examples-select") ? "example" : control.closest(".content-type-wrapper") ? "content type" : "request body"));
  }
  for (const scrolled of by("api").querySelectorAll("pre:not([tabindex])")) scrolled.tabIndex = 0;
};
new MutationObserver(named).observe(by("api"), { childList: true, subtree: true });

let failure = null;

const draw = () => {
  by("said").className = "bad";
  by("said").textContent = !failure ? "" : failure.status === 401 ? say("This service asks for a key.") : failure.message;
};

const look = async () => {
  const { said: spec } = await ask("/openapi.json");
  failure = null;
  by("key-row").hidden = true;
  by("document").href = URL.createObjectURL(new Blob([JSON.stringify(spec, null, 2)], { type: "application/json" }));
  by("about").textContent = `${spec.info.version} · ${spec.info.summary} ${spec.info.description.replaceAll("`", "")}`;
  window.SwaggerUIBundle({
    spec,
    domNode: by("api"),
    layout: "BaseLayout",
    plugins: [surroundings],
    deepLinking: false,
    displayRequestDuration: true,
    defaultModelsExpandDepth: 0,
    syntaxHighlight: { activated: false }, // a thousand numbers need no colours
    validatorUrl: null, // it would send the document to a service elsewhere
    requestInterceptor: (request) => Object.assign(request, { headers: authorized(request.headers) }),
  });
  draw();
};

const failed = (error) => {
  failure = error;
  by("key-row").hidden = error.status !== 401;
  draw();
};

by("key-row").onsubmit = (event) => { event.preventDefault(); useKey(by("key").value); look().catch(failed); };

translate(draw);
look().catch(failed);
