// Set up the page.

import { promptForKey } from "./api_key.js";
import { fetchJson, setKeyPrompt } from "./api_client.js";
import { setUpAttention } from "./attention.js";
import { setUpComparison } from "./comparison.js";
import { setUpComposer } from "./composer.js";
import { setUpConversation } from "./conversation.js";
import { byId } from "./dom.js";
import { setUpDownloads } from "./downloads.js";
import { formatError } from "./errors.js";
import { setColours } from "./phrases.js";
import { setLimits } from "./picture_file.js";
import { setUpPictureInput } from "./picture_input.js";
import { fetchModelName, setEarlierTurns } from "./requests.js";
import { setUpTalks } from "./talks.js";
import { translateDocument } from "./texts.js";
import { setUpTurnViews } from "./turn_view.js";
import { setUpViews } from "./views.js";

translateDocument();
setKeyPrompt(promptForKey);
try {
  const config = await fetchJson("/page/about");
  setColours(config);
  setLimits({ pixels: config.max_pixels, bytes: config.max_bytes });
  setEarlierTurns(config.earlier_turns);
  setUpConversation();
  setUpTurnViews();
  setUpComposer(config.earlier_turns === "all");
  setUpViews();
  setUpDownloads();
  setUpAttention(config.heat);
  setUpComparison(config.comparison);
  byId("model").textContent = config.model;
  setUpPictureInput(config.pictures, config.is_embedded, config.max_pictures);
  setUpTalks();
  await fetchModelName();
} catch (error) {
  byId("complaint").textContent = formatError(error);
}
