# shellcheck shell=bash
# Completion of the command lines of mom and mom-sandbox for bash.

# Offers those of $3 that continue what was typed of the word, $1. It may end in a value, as
# --sandbox=docker:x does: $2 is that value. bash takes such a word apart at = and :, and
# replaces its last part alone, as far as COMP_WORDBREAKS says so: that part is $4.
_mom_offer() {
    local before=${1%"$2"} done=$((${#1} - ${#4})) word
    COMPREPLY=()
    while IFS= read -r word; do
        word=$before$word
        COMPREPLY+=("${word:done}")
    done < <(compgen -W "$3" -- "$2")
    # What has a value, or more behind it, gets no space.
    [[ ${COMPREPLY-} != *[=:/] ]] || compopt -o nospace
}

_mom_offer_directories() {
    compopt -o filenames
    mapfile -t COMPREPLY < <(compgen -d -- "$1")
}

_mom() {
    local part=$2 typed before option value
    typed=${COMP_LINE:0:COMP_POINT}
    before=${typed%"${typed##*[[:space:]]}"}
    typed=${typed#"$before"}
    read -r -a before <<<"$before"
    option=${before[-1]} value=$typed
    case $typed in --*=*) option=${typed%%=*} value=${typed#*=} ;; esac
    case $option in
    --sandbox) _mom_offer "$typed" "$value" "host docker:mom-sandbox podman:mom-sandbox kubectl:" "$part" ;;
    --model) _mom_offer "$typed" "$value" "offline anthropic/ openai/ openrouter/ groq/ mistral/
            gemini/ deepseek/ xai/ together/ cerebras/ moonshot/ zai/ ollama/ llamacpp/ vllm/ lmstudio/ custom/" "$part" ;;
    --approve) _mom_offer "$typed" "$value" "off changes all" "$part" ;;
    --log-level) _mom_offer "$typed" "$value" "error warn info debug" "$part" ;;
    --price | --budget | --allow-users | --allow-channels | --download | --since) ;;
    *)
        case $typed in
        -*) _mom_offer "$typed" "$typed" "--chat --check --manifest --download --usage
            --sandbox= --model= --price= --budget= --allow-users= --allow-channels= --approve= --follow-threads --log-level= --since= --help --version" "$part" ;;
        *) _mom_offer_directories "$part" ;;
        esac
        ;;
    esac
}
complete -F _mom mom

_mom_sandbox() {
    case $COMP_CWORD:$3 in
    1:*) _mom_offer "$2" "$2" "create start stop remove status shell --help" "$2" ;;
    2:create) _mom_offer_directories "$2" ;;
    2:remove) _mom_offer "$2" "$2" --yes "$2" ;;
    esac
}
complete -F _mom_sandbox mom-sandbox
