// The viewer of the OpenAPI document, which stands beside /docs, under whatever prefix.
SwaggerUIBundle({
  url: new URL("../openapi.json", document.currentScript.src).href,
  domNode: document.getElementById("viewer"),
  deepLinking: true,
  presets: [SwaggerUIBundle.presets.apis],
});
