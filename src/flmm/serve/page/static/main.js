// Sets the page up.

import { setUpAttention } from "./attention.js";
import { setUpChoosing } from "./choosing.js";
import { setUpComparison } from "./comparison.js";
import { explained, modelName, setUpConversation } from "./conversation.js";
import { setUpDownloads } from "./downloads.js";
import { byId } from "./elements.js";
import { askForKey } from "./key.js";
import { setColours } from "./phrases.js";
import { fetchJson, setKeyAsker } from "./server.js";
import { setUpStage } from "./stage.js";

setKeyAsker(askForKey);
setUpConversation();
setUpStage();
setUpComparison();
setUpDownloads();
try {
  const about = await fetchJson("/page/about");
  setColours(about);
  setUpAttention(about.heat);
  setUpChoosing(about.pictures);
  await modelName();
} catch (error) {
  byId("complaint").textContent = explained(error);
}
