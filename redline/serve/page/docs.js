// The API's description as a page: what OpenAPI says, and nothing from other hosts.

import { byId, element } from "./dom.js";

/** What a schema allows, in a few words: `text`, `whole number or none`, `list of text`, `a, b or c`. */
function kindOf(schema = {}) {
  if (schema.enum) return schema.enum.join(", ");
  if (schema.const !== undefined) return String(schema.const);
  if (schema.anyOf) return [...new Set(schema.anyOf.map(kindOf))].join(" or ");
  if (schema.format === "binary") return "file";
  if (schema.type === "array") return `list of ${kindOf(schema.items)}`;
  const names = { string: "text", integer: "whole number", number: "number", boolean: "true or false", null: "none" };
  return names[schema.type] ?? "object";
}

function row(name, schema, description, isRequired) {
  const usual = schema.default === undefined || schema.default === null ? "" : `; usually ${JSON.stringify(schema.default)}`;
  return element("tr", {},
    element("th", { scope: "row" }, element("code", {}, name), isRequired ? " *" : null),
    element("td", {}, kindOf(schema) + usual),
    element("td", {}, description ?? schema.description ?? ""));
}

function table(caption, rows) {
  return rows.length ? element("table", {}, element("caption", {}, caption), element("tbody", {}, ...rows)) : null;
}

function operation(path, method, said, resolved) {
  const asked = (said.parameters ?? []).map((each) => row(each.name, each.schema, each.description, each.required));
  const bodies = Object.entries(said.requestBody?.content ?? {}).map(([kind, { schema }]) => {
    const { properties = {}, required = [] } = resolved(schema);
    const fields = Object.entries(properties).map(([name, each]) => row(name, resolved(each), null, required.includes(name)));
    return table(kind, fields);
  });
  return element("details", { class: "operation" },
    element("summary", {},
      element("code", { class: "method" }, method.toUpperCase()), " ", element("code", {}, path), " ",
      element("span", { class: "quiet" }, said.description ?? said.summary ?? "")),
    table("in the address", asked), ...bodies, asked.length + bodies.length ? null : element("p", { class: "quiet" }, "No parameters."));
}

const { paths, components = {} } = await (await fetch("/openapi.json")).json();
const resolved = (schema = {}) => (schema.$ref ? components.schemas[schema.$ref.split("/").pop()] ?? {} : schema);
const groups = new Map();
for (const [path, verbs] of Object.entries(paths)) {
  for (const [method, said] of Object.entries(verbs)) {
    const group = said.tags?.[0] ?? "other";
    groups.set(group, [...(groups.get(group) ?? []), operation(path, method, said, resolved)]);
  }
}
for (const [group, operations] of groups) {
  byId("operations").append(element("section", {}, element("h2", {}, group), ...operations));
}
document.documentElement.dataset.ready = "";
