/*
 * Conveniences of the Admin's pages. Without this file everything works as well: links and callback
 * URLs are then written anew by a button.
 */
"use strict";

{
    const WAIT_MS = 250;

    /** Call `work` once somebody has stopped typing. */
    const afterTyping = (work) => {
        let timer;
        return (...args) => {
            clearTimeout(timer);
            timer = setTimeout(() => work(...args), WAIT_MS);
        };
    };

    /** Ask the server; an answer that somebody has typed past is dropped. */
    const asker = (show) => {
        let latest = 0;
        return afterTyping(async (url, values) => {
            const mine = ++latest;
            const response = await fetch(`${url}?${new URLSearchParams(values)}`).catch(() => null);
            if (mine === latest && response && response.ok) {
                show(await response.json());
            }
        });
    };

    const showMistakes = (list, mistakes) => {
        list.hidden = !mistakes.length;
        list.replaceChildren(...mistakes.map((text) => {
            const item = document.createElement("li");
            item.textContent = text;
            return item;
        }));
    };

    const makeCopyable = (button) => {
        const label = button.textContent;
        button.hidden = false;
        button.addEventListener("click", async () => {
            const field = document.getElementById(button.dataset.copy);
            field.select();
            try {
                await navigator.clipboard.writeText(field.value);
            } catch {
                document.execCommand("copy"); // over http:// there is no clipboard
            }
            button.textContent = button.dataset.done;
            setTimeout(() => { button.textContent = label; }, 2000);
        });
    };

    const makeLinkLive = (fields) => {
        const link = document.getElementById("aff-link");
        const mistakes = document.getElementById("aff-link-mistakes");
        const ask = asker((answer) => {
            showMistakes(mistakes, answer.mistakes);
            if (answer.link) {
                link.value = answer.link;
            }
        });
        const write = () => {
            const inputs = [...fields.querySelectorAll("input")];
            ask(fields.dataset.url, inputs.map((input) => [input.name, input.value]));
        };
        fields.addEventListener("input", write);
        document.getElementById("aff-link-submit").hidden = true;
        // Enter must not leave a page on which something may have been changed.
        document.getElementById("aff-link-form").addEventListener("submit", (event) => {
            event.preventDefault();
            write();
        });
    };

    const askers = new WeakMap();

    const preview = (box) => {
        if (!box.dataset.previewUrl) {
            return;
        }
        if (!askers.has(box)) {
            askers.set(box, asker((answer) => {
                box.querySelector(".aff-rendered").textContent = answer.rendered || "–";
                showMistakes(box.querySelector(".aff-mistakes"), answer.mistakes);
            }));
        }
        const input = box.querySelector("input");
        const trigger = document.getElementById(input.id.replace(/callback_url$/, "trigger"));
        const values = {url: input.value, trigger: trigger ? trigger.value || "" : ""};
        askers.get(box)(box.dataset.previewUrl, values);
    };

    /** Put a placeholder where the cursor stands, or at the end. */
    const insert = (input, text) => {
        const start = input.selectionStart ?? input.value.length;
        input.setRangeText(text, start, input.selectionEnd ?? start, "end");
        input.focus();
        input.dispatchEvent(new Event("input", {bubbles: true}));
    };

    const makeButton = (code) => {
        const button = document.createElement("button");
        button.type = "button";
        button.className = "aff-insert";
        button.dataset.placeholder = code.dataset.placeholder;
        button.textContent = code.textContent;
        code.replaceWith(button);
    };

    document.addEventListener("DOMContentLoaded", () => {
        document.querySelectorAll("button.aff-copy").forEach(makeCopyable);
        document.querySelectorAll("code[data-placeholder]").forEach(makeButton);
        const fields = document.getElementById("aff-link-fields");
        if (fields) {
            makeLinkLive(fields);
        }
        // Whatever row of subscriptions it is in, also one that is added later.
        document.addEventListener("input", (event) => {
            const box = event.target.closest(".aff-callback-url");
            if (box) {
                preview(box);
            }
        });
        document.addEventListener("click", (event) => {
            const button = event.target.closest("button.aff-insert");
            if (button) {
                insert(button.closest(".aff-callback-url").querySelector("input"), button.dataset.placeholder);
            }
        });
    });
}
