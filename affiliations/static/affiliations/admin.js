/*
 * Enhancements of the Admin's pages. The pages also work without this file: a button builds the link, and
 * saving updates the preview of a callback URL.
 */
"use strict";

{
    const WAIT_MS = 250;

    /** Call `work` when the user stops typing. */
    const afterTyping = (work) => {
        let timer;
        return (...args) => {
            clearTimeout(timer);
            timer = setTimeout(() => work(...args), WAIT_MS);
        };
    };

    /** Request data from the server; a response is ignored if a newer request was sent. */
    const requester = (show) => {
        let latest = 0;
        return afterTyping(async (url, values) => {
            const number = ++latest;
            const response = await fetch(`${url}?${new URLSearchParams(values)}`).catch(() => null);
            if (number === latest && response && response.ok) {
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

    const showCorrections = (list, corrections) => {
        list.hidden = !corrections.length;
        list.replaceChildren(...corrections.map(([label, url]) => {
            const button = document.createElement("button");
            button.type = "button";
            button.className = "aff-correct";
            button.dataset.url = url;
            button.textContent = label;
            return button;
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
                document.execCommand("copy"); // no clipboard over http://
            }
            button.textContent = button.dataset.done;
            setTimeout(() => { button.textContent = label; }, 2000);
        });
    };

    const makeLinkLive = (fields) => {
        const link = document.getElementById("aff-link");
        const mistakes = document.getElementById("aff-link-mistakes");
        const request = requester((data) => {
            showMistakes(mistakes, data.mistakes);
            if (data.link) {
                link.value = data.link;
            }
        });
        const update = () => {
            const inputs = [...fields.querySelectorAll("input")];
            request(fields.dataset.url, inputs.map((input) => [input.name, input.value]));
        };
        fields.addEventListener("input", update);
        document.getElementById("aff-link-submit").hidden = true;
        // The link is shown without sending the form.
        document.getElementById("aff-link-form").addEventListener("submit", (event) => {
            event.preventDefault();
            update();
        });
    };

    /** Update the totals of the selected balances, and the first reference, when the form changes. */
    const makeBalancesLive = (form) => {
        const boxes = [...form.querySelectorAll("[name=balance]")];
        const all = document.getElementById("aff-all");
        const showTotals = () => {
            const chosen = boxes.filter((box) => box.checked).map((box) => box.value.split(":"));
            form.querySelectorAll("[data-total]").forEach((cell) => {
                const {total: currency, places} = cell.dataset;
                const rows = chosen.filter((parts) => parts[1] === currency);
                const sum = rows.reduce((sum, parts) => sum + Number(parts[3]) + Number(parts[5]), 0);
                const digits = {minimumFractionDigits: places, maximumFractionDigits: places, useGrouping: false};
                const text = sum.toLocaleString(document.documentElement.lang, digits);
                cell.textContent = `${text}\u00a0${currency}`;
                form.querySelector(`[data-count="${currency}"]`).textContent = rows.length;
            });
            all.checked = boxes.every((box) => box.checked);
            all.indeterminate = !all.checked && chosen.length > 0;
        };
        all.hidden = false;
        all.addEventListener("change", () => {
            boxes.forEach((box) => { box.checked = all.checked; });
            showTotals();
        });
        form.addEventListener("change", (event) => {
            if (event.target.name === "balance") {
                showTotals();
            }
        });
        showTotals();
        const first = document.getElementById("aff-first");
        const [year, month, number] = first.dataset.values.split(" ");
        const values = {"{year}": year, "{month}": month, "{number}": number};
        form.elements.reference.addEventListener("input", (event) => {
            first.value = event.target.value.replace(/\{(year|month|number)\}/g, (name) => values[name]);
        });
    };

    const requesters = new WeakMap();

    const preview = (box) => {
        if (!box.dataset.previewUrl) {
            return;
        }
        if (!requesters.has(box)) {
            requesters.set(box, requester((data) => {
                box.querySelector(".aff-rendered").textContent = data.rendered || "–";
                showMistakes(box.querySelector(".aff-mistakes"), data.mistakes);
                showMistakes(box.querySelector(".aff-doubts"), data.doubts);
                showCorrections(box.querySelector(".aff-corrections"), Object.entries(data.corrections));
                box.querySelectorAll(".aff-stored, .aff-corrected").forEach((note) => note.remove());
            }));
        }
        const input = box.querySelector("input");
        const valueOf = (name) => {
            const field = document.getElementById(input.id.replace(/callback_url$/, name));
            return field ? field.value || "" : "";
        };
        const values = {url: input.value, trigger: valueOf("trigger"), method: valueOf("method")};
        requesters.get(box)(box.dataset.previewUrl, values);
    };

    /** Insert a placeholder at the cursor, or at the end. */
    const insert = (input, text) => {
        const start = input.selectionStart ?? input.value.length;
        input.setRangeText(text, start, input.selectionEnd ?? start, "end");
        input.focus();
        input.dispatchEvent(new Event("input", {bubbles: true}));
    };

    const replaceWith = (input, text) => {
        input.value = text;
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
        const balances = document.getElementById("aff-balances");
        if (balances) {
            makeBalancesLive(balances);
        }
        // Delegated, so that rows that are added later are included.
        document.addEventListener("input", (event) => {
            // The method of a subscription changes the preview too.
            const input = document.getElementById(event.target.id.replace(/method$/, "callback_url"));
            const box = input && input.closest(".aff-callback-url");
            if (box) {
                preview(box);
            }
        });
        document.addEventListener("click", (event) => {
            const button = event.target.closest("button.aff-insert, button.aff-correct");
            if (button && button.dataset.url) {
                event.preventDefault();
                replaceWith(button.closest(".aff-callback-url").querySelector("input"), button.dataset.url);
            } else if (button) {
                insert(button.closest(".aff-callback-url").querySelector("input"), button.dataset.placeholder);
            }
        });
    });
}
