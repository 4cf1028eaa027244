// Set up the page.

import { promptForKey } from "./api_key.js";
import { fetchJson, setKeyPrompt } from "./api_client.js";
import { setUpAttention } from "./attention.js";
import { setUpComparison } from "./comparison.js";
import { fetchModelName, formatError, setUpConversation } from "./conversation.js";
import { byId } from "./dom.js";
import { setUpDownloads } from "./downloads.js";
import { setColours } from "./phrases.js";
import { setUpPictureInput } from "./picture_input.js";
import { setUpViews } from "./views.js";

setKeyPrompt(promptForKey);
setUpConversation();
setUpViews();
setUpDownloads();
try {
  const config = await fetchJson("/page/about");
  setColours(config);
  setUpAttention(config.heat);
  setUpComparison(config.comparison);
  byId("model").textContent = config.model;
  setUpPictureInput(config.pictures, config.notice);
  await fetchModelName();
} catch (error) {
  byId("complaint").textContent = formatError(error);
}
